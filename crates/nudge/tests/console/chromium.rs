//! A Chromium without a window, driven by the DevTools protocol over two pipes: no port, and nothing to connect with.
//! It ends when its input does, however this test ends.

use std::{
    path::Path,
    process::{Command as Std, Stdio},
    time::Duration,
};

use nudge_testbed::{PATIENCE, script};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// Nothing but the page may be fetched, and nothing of an earlier run may be left.
const ARGUMENTS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "about:blank",
];
/// The protocol's messages end with this.
const END: u8 = 0;
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A browser with one page.
pub(crate) struct Chromium {
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    session: Option<String>,
    last: u64,
    /// What went wrong on the page: errors on its console, exceptions, and what its policy did not allow.
    pub(crate) complaints: Vec<String>,
    child: Child,
    _profile: tempfile::TempDir,
}

impl Chromium {
    /// Starts one of this width and height, in pixels.
    pub(crate) async fn start(width: u32, height: u32) -> Self {
        let found = Std::new(script("chromium")).stderr(Stdio::inherit()).output().unwrap();
        assert!(found.status.success(), "there is no Chromium (see above)");
        let exe = String::from_utf8(found.stdout).unwrap();
        let profile = tempfile::tempdir().unwrap();
        // It takes commands from file 3 and answers to file 4.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >&2", exe.trim()]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.args(ARGUMENTS).env("LANG", "en_US.UTF-8");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut chromium = Self {
            commands,
            answers: BufReader::new(answers),
            session: None,
            last: 0,
            complaints: Vec::new(),
            child,
            _profile: profile,
        };
        let targets = chromium.call("Target.getTargets", json!({})).await;
        let pages = targets["targetInfos"].as_array().unwrap();
        let page = pages.iter().find(|one| one["type"] == "page").expect("it opened about:blank");
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let session = chromium.call("Target.attachToTarget", attach).await["sessionId"].take();
        chromium.session = session.as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            chromium.call(&format!("{domain}.enable"), json!({})).await;
        }
        chromium.resize(width, height).await;
        chromium
    }

    /// Sends a command and waits for its answer.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        let mut answer = self.answer(method, params).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    async fn answer(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut command = json!({"id": self.last, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(END);
        self.commands.write_all(&bytes).await.unwrap();
        let answer = async {
            loop {
                let message = self.message().await;
                if message["id"] == self.last {
                    return message;
                }
                self.complaints.extend(complaint(&message));
            }
        };
        let answered = tokio::time::timeout(PATIENCE, answer).await;
        answered.unwrap_or_else(|_| panic!("Chromium did not answer {method} in time"))
    }

    async fn message(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.answers.read_until(END, &mut bytes).await.unwrap();
        assert_eq!(bytes.pop(), Some(END), "Chromium has ended");
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Opens a page.
    pub(crate) async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
        self.until("the page is there", "document.readyState === 'complete'").await;
    }

    /// What an expression is worth; of a promise, what comes of it.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.answer("Runtime.evaluate", params.clone()).await;
        // Between two pages there is nobody to ask: one is being loaded.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while answer["error"]["message"].is_string() {
            assert!(tokio::time::Instant::now() < deadline, "{expression}: {answer}");
            tokio::time::sleep(POLL_INTERVAL).await;
            answer = self.answer("Runtime.evaluate", params.clone()).await;
        }
        let result = &mut answer["result"];
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&mut self, what: &str, expression: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.evaluate(expression).await != true {
            if tokio::time::Instant::now() > deadline {
                let text = self.evaluate("document.body.innerText").await;
                panic!(
                    "never happened: {what}; the page says {}",
                    text.as_str().unwrap_or_default()
                );
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Presses a key.
    pub(crate) async fn press(&mut self, key: &str) {
        let text = if key.len() == 1 {
            key
        } else if key == "Enter" {
            "\r"
        } else {
            ""
        };
        for kind in ["keyDown", "keyUp"] {
            let params = json!({"type": kind, "key": key, "text": if kind == "keyDown" { text } else { "" }});
            self.call("Input.dispatchKeyEvent", params).await;
        }
    }

    pub(crate) async fn resize(&mut self, width: u32, height: u32) {
        let params =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", params).await;
    }

    /// Sets whether the person prefers `light` or `dark`.
    pub(crate) async fn scheme(&mut self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// Writes what the page looks like, from its top to the end of an element, to a PNG file.
    pub(crate) async fn screenshot(&mut self, last: &str, file: &Path) {
        let size = "(({ bottom }) => [innerWidth, Math.ceil(bottom + scrollY)])";
        let element = format!("document.querySelector('{last}').getBoundingClientRect()");
        let size = self.evaluate(&format!("{size}({element})")).await;
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
        let params = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let answer = self.call("Page.captureScreenshot", params).await;
        std::fs::write(file, base64(answer["data"].as_str().unwrap())).unwrap();
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) {
        drop(self.commands);
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("Chromium ends").unwrap();
    }
}

/// What a message says is wrong with the page.
fn complaint(message: &Value) -> Option<String> {
    let params = &message["params"];
    match message["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" if params["type"] == "error" => Some(params["args"].to_string()),
        "Log.entryAdded" if params["entry"]["level"] == "error" => {
            Some(params["entry"].to_string())
        }
        _ => None,
    }
}

/// The bytes of a text in base64.
fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').map(digit).collect();
    let chunk = |four: &[u8]| {
        let bits = four.iter().fold(0_u32, |bits, digit| (bits << 6) | u32::from(*digit));
        let bits = bits << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(chunk).collect()
}
