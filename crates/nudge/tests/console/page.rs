use std::{path::PathBuf, process::Stdio, time::Duration};

use nudge_runtime::auth::Scope;
use nudge_testbed::{TestDatabase, script, shell};
use reqwest::Client;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use tokio_util::sync::CancellationToken;

use super::chromium::Chromium;
use crate::dev::{
    auth::token,
    demo::{Demo, NUDGE, ends, signal},
    real::is_ready,
};

const WIDE: (u32, u32) = (1_280, 900);
const PHONE: (u32, u32) = (390, 844);
/// Most bytes of the page with all its files, as they are sent.
const MAX_PAGE_BYTES: f64 = 60.0 * 1024.0;

/// A demo, and a browser that shows its console.
struct Shown {
    demo: Demo,
    running: (Child, Vec<Pid>),
    browser: Chromium,
}

async fn shown() -> Shown {
    shown_with("1").await
}

/// With this share of owners' time for comparing with them, in percent.
async fn shown_with(resync_percent: &str) -> Shown {
    shown_by(resync_percent, &[]).await
}

async fn shown_by(resync_percent: &str, args: &[&str]) -> Shown {
    let demo = Demo::of_real_services();
    let mut command = demo.command();
    command.args(args).env("RESYNC_PERCENT", resync_percent);
    let running = demo.spawn(command).await;
    is_ready(&demo).await;
    let mut browser = Chromium::start(WIDE.0, WIDE.1).await;
    browser.open(&format!("http://127.0.0.1:{}/", demo.port_base)).await;
    let mut shown = Shown { demo, running, browser };
    shown.says("#overall", "✓ all 7 ready").await;
    shown.until("rows are there, all equal", &all_equal("tr")).await;
    shown
}

/// Whether every copy in these rows of the grid is equal to its owner's.
fn all_equal(rows: &str) -> String {
    format!(
        "(() => {{ const cells = [...document.querySelectorAll('#grid-body {rows} td')];
        const copies = cells.filter((cell) => cell.dataset.service !== 'store-info');
        return copies.length >= 5 && copies.every((cell) => /^✓ (equal|deleted)/.test(cell.textContent)); }})()"
    )
}

impl Shown {
    async fn until(&mut self, what: &str, expression: &str) {
        self.browser.until(what, expression).await;
    }

    async fn click(&mut self, selector: &str) {
        let usable = format!("document.querySelector(`{selector}:not(:disabled)`) !== null");
        self.until(selector, &usable).await;
        self.browser.evaluate(&format!("document.querySelector(`{selector}`).click()")).await;
    }

    async fn says(&mut self, selector: &str, text: &str) {
        let expression =
            format!("document.querySelector(`{selector}`)?.innerText.includes(`{text}`) ?? false");
        self.until(&format!("{selector} says {text}"), &expression).await;
    }

    async fn choose(&mut self, id: &str) {
        self.click(&format!("#grid-body tr[data-key='{id}'] th")).await;
        self.says("#chosen-key", &format!("store/{id}")).await;
        self.until("its form is there", "!document.querySelector('#edit').hidden").await;
    }

    /// Does nothing unless `NUDGE_SCREENSHOTS` names a directory, as `make screenshots` does.
    async fn screenshot(&mut self, last: &str, name: &str) {
        if let Some(directory) = std::env::var_os("NUDGE_SCREENSHOTS") {
            self.browser.screenshot(last, &PathBuf::from(directory).join(name)).await;
        }
    }

    async fn violations(&mut self) -> Value {
        let axe =
            std::process::Command::new(script("axe")).stderr(Stdio::inherit()).output().unwrap();
        assert!(axe.status.success(), "there is no axe-core (see above)");
        let axe = std::fs::read_to_string(String::from_utf8(axe.stdout).unwrap().trim()).unwrap();
        self.browser.evaluate(&format!("{axe}; undefined")).await;
        let run = "axe.run(document).then(({ violations }) => violations.map((one) =>
            [one.id, one.help, one.nodes.map((node) => node.html + ' ' + (node.any[0]?.message ?? ''))]))";
        self.browser.evaluate(run).await
    }

    /// Sets a field of a form of the drawer.
    async fn fill(&mut self, kind: &str, field: &str, value: &str) {
        let set = format!(
            "(() => {{ const field = document.querySelector('[data-key={kind}]').elements['{field}'];
            field.value = '{value}'; field.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()"
        );
        self.browser.evaluate(&set).await;
    }

    /// The checks of [`anybody_can_use_it_on_a_phone_by_keyboard_and_in_the_dark`] in all sizes and colours.
    async fn is_accessible(&mut self, name: &str) {
        for scheme in ["light", "dark"] {
            self.browser.scheme(scheme).await;
            for (width, height) in [WIDE, PHONE] {
                self.browser.resize(width, height).await;
                let scrolls = "document.documentElement.scrollWidth - innerWidth";
                assert_eq!(self.browser.evaluate(scrolls).await, 0, "{scheme}, {width} px");
                assert_eq!(self.violations().await, json!([]), "{scheme}, {width} px");
                self.screenshot("body", &format!("{name}{scheme}-{width}.png")).await;
            }
        }
    }

    /// A copy's cell in the grid.
    async fn cell_says(&mut self, id: &str, service: &str, text: &str) {
        self.says(&format!("#grid-body tr[data-key={id}] td[data-service={service}]"), text).await;
    }

    fn sql(&self, service: &str, sql: &str) {
        let file = self.demo.path(&format!("data/{service}.db"));
        shell::run(&format!("sqlite:{}", file.display()), sql);
    }

    async fn stop(self) {
        assert!(self.browser.complaints.is_empty(), "{:#?}", self.browser.complaints);
        self.browser.stop().await;
        self.demo.stop(self.running).await;
    }
}

#[tokio::test]
async fn a_store_that_is_edited_is_equal_everywhere_soon_and_the_page_says_when() {
    let mut shown = shown().await;
    shown.choose("store-001").await;
    shown.browser.evaluate("document.querySelector('#name').value = '햇살국수 새이름'").await;
    shown.click("#edit [type=submit]").await;
    shown.says("#result", "copies have it: the last").await;
    shown.says("#grid-body tr[data-key='store-001'] .name", "햇살국수 새이름").await;
    shown.until("its row is equal", &all_equal("tr[data-key=store-001]")).await;
    // What everybody was sent, beside what they fetched.
    shown.says("#wire", r#"{"id":"store-001","change":"updated"}"#).await;
    shown.says("#wire", "햇살국수 새이름").await;
    let ended = "[...document.querySelectorAll('#timeline .ended')]";
    let timed =
        format!("{ended}.filter((cell) => / ms applied$/.test(cell.textContent)).length === 5");
    shown.until("each copy's time", &timed).await;
    shown.screenshot("#chosen", "console.png").await;
    shown.click("#delete").await;
    shown.says("#chosen", "It is deleted").await;
    for service in ["search", "review", "storefront", "favourites", "ads"] {
        shown.cell_says("store-001", service, "✓ deleted").await;
    }
    shown.click("#deleted [type=submit]").await;
    shown.says("#result", "copies have it: the last").await;
    shown.browser.evaluate("document.querySelector('#hammer').dataset.edits = 100").await;
    shown.click("#hammer").await;
    shown.says("#result", "100 edits committed").await;
    shown.says("#hammered", "edits shared each; has the last").await;
    shown.stop().await;
}

#[tokio::test]
async fn a_dead_letter_appears_and_its_replay_clears_it() {
    // Comparing would mend it, too.
    let mut shown = shown_with("0").await;
    shown.says("#subscribers", "that is switched off").await;
    shown.sql(
        "search",
        "CREATE TRIGGER refuses BEFORE UPDATE ON store WHEN new.id = 'store-002'
         BEGIN SELECT RAISE(ABORT, 'refused by a test'); END",
    );
    shown.choose("store-002").await;
    shown.browser.evaluate("document.querySelector('#name').value = '초록접시 2호점'").await;
    shown.click("#edit [type=submit]").await;
    shown.cell_says("store-002", "search", "dead letter").await;
    shown.cell_says("store-002", "review", "✓ equal").await;
    shown.says("#dead-body", "refused by a test").await;
    shown.says("#flow", "1 dead letter").await;
    shown.sql("search", "DROP TRIGGER refuses");
    shown.click("#dead-body .replay").await;
    shown.says("#dead-note", "store/store-002 put back on the queue").await;
    shown.until("its row is equal", &all_equal("tr[data-key=store-002]")).await;
    shown.until("nothing is left", "document.querySelector('#dead-table').hidden").await;
    shown.stop().await;
}

#[tokio::test]
async fn a_copy_that_was_changed_by_hand_is_shown_and_mended_by_comparing() {
    let mut shown = shown().await;
    // Without that, it compares by itself before long.
    shown.click("#subscribers [data-key='search store'] .pause").await;
    shown.says("#flow", "‖ paused").await;
    shown.sql("search", "DELETE FROM nudge_applied WHERE id = 'store-003'");
    shown.cell_says("store-003", "search", "missing").await;
    shown.click("#subscribers [data-key='search store'] .pause").await;
    shown.click("#subscribers [data-key='search store'] .resync").await;
    shown.cell_says("store-003", "search", "✓ equal").await;
    shown.says("#subscribers [data-key='search store']", "compared with the owner").await;
    shown.stop().await;
}

#[tokio::test]
async fn anybody_can_use_it_on_a_phone_by_keyboard_and_in_the_dark() {
    let mut shown = shown().await;
    let sizes = "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
        .filter((entry) => entry.initiatorType !== 'fetch').reduce((sum, entry) => sum + entry.transferSize, 0)";
    let bytes = shown.browser.evaluate(sizes).await.as_f64().unwrap();
    assert!((1.0..MAX_PAGE_BYTES).contains(&bytes), "{bytes} bytes");
    let shown_after =
        shown.browser.evaluate("performance.getEntriesByName('shown')[0].startTime").await;
    println!("figure | page | {bytes} bytes | shown after {shown_after} ms");

    shown.browser.press("/").await;
    for key in ["s", "t", "o", "r", "e", "-", "0", "0", "5"] {
        shown.browser.press(key).await;
    }
    shown.until("it is found", "document.querySelectorAll('#grid-body tr').length === 1").await;
    shown.browser.evaluate("document.querySelector('#grid-body [tabindex=\"0\"]').focus()").await;
    shown.browser.press("ArrowRight").await;
    let focused = "document.activeElement.dataset.service";
    assert_eq!(shown.browser.evaluate(focused).await, "store-info");
    shown.browser.press("Enter").await;
    shown.says("#chosen-key", "store/store-005").await;
    shown.says("#timeline", "storefront").await;

    assert_eq!(shown.browser.evaluate("document.querySelector('#chaos').hidden").await, true);
    shown.is_accessible("").await;
    shown.stop().await;
}

#[tokio::test]
async fn what_is_broken_on_purpose_is_told_in_every_tab_and_heals() {
    // Comparing would bring what is held back.
    let mut shown = shown_by("0", &["--chaos"]).await;
    let mut other = Chromium::start(WIDE.0, WIDE.1).await;
    other.open(&format!("http://127.0.0.1:{}/", shown.demo.port_base)).await;
    shown.browser.evaluate("document.querySelector('#drawer').open = true").await;
    shown.fill("hold", "service", "search").await;
    shown.fill("hold", "count", "64").await;
    shown.fill("hold", "seconds", "120").await;
    shown.fill("hold", "seed", "7").await;
    shown
        .says("[data-key=hold] code", "hold --service search --count 64 --seconds 120 --seed 7")
        .await;
    shown.click("[data-key=hold] [type=submit]").await;
    let banner = "⚠ Broken on purpose: notifications to search are held back";
    shown.says("#broken", banner).await;
    let told = format!("document.querySelector('#broken').innerText.startsWith(`{banner}`)");
    other.until("another tab tells, too", &told).await;

    // What differs, and since when.
    shown.choose("store-004").await;
    shown.browser.evaluate("document.querySelector('#name').value = '달빛 4호점'").await;
    shown.click("#edit [type=submit]").await;
    shown.cell_says("store-004", "review", "✓ equal").await;
    shown.cell_says("store-004", "search", "behind").await;
    shown.says("#disturbed", "held back now\n1").await;
    // The command that it shows does the same.
    let command = "document.querySelector('[data-key=kill] code').textContent";
    shown.fill("kill", "service", "ads").await;
    shown.fill("kill", "seconds", "120").await;
    let command = shown.browser.evaluate(command).await.as_str().unwrap().to_owned();
    let ran = Command::new("/bin/sh").args(["-c", &command]).output().await.unwrap();
    assert!(ran.status.success(), "{command}: {ran:?}");
    shown.says("#broken", "; ads was killed (since ").await;
    shown.cell_says("store-004", "ads", "away").await;
    shown.fill("hold", "count", "65").await;
    shown.browser.evaluate("document.querySelector('[data-key=hold]').noValidate = true").await;
    shown.click("[data-key=hold] [type=submit]").await;
    shown.says("#chaos-said", "count: must be from 1 to 64").await;
    shown.browser.evaluate("window.before = true; location.reload()").await;
    shown
        .until(
            "it is loaded anew",
            "window.before === undefined && !!document.querySelector('#broken')",
        )
        .await;
    shown.says("#broken", banner).await;
    shown.browser.evaluate("document.querySelector('#drawer').open = true").await;
    shown
        .until("all forms are there", "document.querySelectorAll('#faults form').length === 7")
        .await;
    shown.is_accessible("chaos-").await;
    shown.browser.resize(WIDE.0, WIDE.1).await;

    shown.click("#heal").await;
    shown.until("the banner is gone", "document.querySelector('#broken').innerText === ''").await;
    shown.says("#healed", "✓ Equal again").await;
    shown.until("all is equal", &all_equal("tr")).await;
    other.until("there, too", "document.querySelector('#broken').innerText === ''").await;
    // What the browser itself tells of: a request that was refused, and those for a service that was down.
    for complaints in [&mut shown.browser.complaints, &mut other.complaints] {
        complaints.retain(|one| !one.contains("/api/chaos/hold") && !one.contains("/api/ads/"));
    }
    assert!(other.complaints.is_empty(), "{:#?}", other.complaints);
    other.stop().await;
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_of_any_kind_are_shown_by_their_own_names() {
    let demo = Demo::new();
    let running = demo.start().await;
    let databases = [TestDatabase::new().await, TestDatabase::new().await];
    let stop = CancellationToken::new();
    let words = |database: &TestDatabase| {
        let nats = format!("--nats-url=nats://127.0.0.1:{}", demo.port_base + 22);
        let database = format!("--database-url={}", database.url());
        vec!["charging".to_owned(), "--bind=127.0.0.1:0".to_owned(), nats, database]
    };
    let stations = charging::stations::service();
    let stations = stations.start(words(&databases[0]), stop.clone()).await.unwrap();
    let owner = [format!("--station-owner-url=http://{}", stations.address)];
    let map = charging::map::service();
    let map =
        map.start([words(&databases[1]), owner.to_vec()].concat(), stop.clone()).await.unwrap();
    let station = json!({
        "name": "시청역", "operator": "A", "latitude": 37.5658, "longitude": 126.9772, "chargers": [],
    });
    let url = format!("http://{}/stations/42", stations.address);
    Client::new().put(&url).json(&station).send().await.unwrap().error_for_status().unwrap();

    let mut command = Command::new(NUDGE);
    command
        .args(["console", "--port", "0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    for address in [stations.address, map.address] {
        command.args(["--service", &format!("http://{address}")]);
    }
    let mut console = command.spawn().unwrap();
    let mut said = BufReader::new(console.stdout.take().unwrap()).lines();
    let line = said.next_line().await.unwrap().unwrap();
    assert!(line.contains(" shows charging-stations and charging-map;"), "{line}");
    let mut browser = Chromium::start(WIDE.0, WIDE.1).await;
    browser.open(line.split(' ').nth(1).unwrap()).await;
    for (selector, text) in [
        ("#overall", "✓ all 2 ready"),
        ("#flow", "owns station"),
        ("#grid-body tr[data-key='42'] .name", "시청역"),
        ("#grid-body tr[data-key='42'] td[data-service=charging-map]", "✓ equal"),
    ] {
        let says =
            format!("document.querySelector(`{selector}`)?.innerText.includes(`{text}`) ?? false");
        browser.until(text, &says).await;
    }
    assert!(browser.complaints.is_empty(), "{:#?}", browser.complaints);
    browser.stop().await;
    signal(&console, Signal::TERM);
    assert!(ends(console).await.status.success());
    stop.cancel();
    map.stopped().await;
    stations.stopped().await;
    demo.stop(running).await;
}

/// All that a script on the page, or whoever has its tab, could read.
const READABLE: &str = "[document.documentElement.outerHTML, location.href, document.cookie,
    JSON.stringify(localStorage), JSON.stringify(sessionStorage), history.length,
    ...[...document.querySelectorAll('input, textarea')].map((field) => field.value)].join(' ')";

impl Shown {
    /// A demo that asks for tokens, and its page before anybody has logged in.
    async fn login() -> Self {
        let demo = Demo::of_real_services();
        let mut command = demo.command();
        command.arg("--auth").env("RESYNC_PERCENT", "1");
        let running = demo.spawn(command).await;
        is_ready(&demo).await;
        let mut browser = Chromium::start(WIDE.0, WIDE.1).await;
        browser.open(&format!("http://127.0.0.1:{}/", demo.port_base)).await;
        let mut shown = Self { demo, running, browser };
        shown.asks("").await;
        shown
    }

    /// Waits until the page shows nothing but its login, which says this.
    async fn asks(&mut self, why: &str) {
        self.until("it asks for a token", "document.querySelector('#login')?.hidden === false")
            .await;
        self.says("#login-why", why).await;
        self.until("its field has the focus", "document.activeElement?.id === 'token'").await;
        let rest = "document.querySelector('#copies').checkVisibility()";
        assert_eq!(self.browser.evaluate(rest).await, false);
    }

    /// By keyboard.
    async fn log_in(&mut self, token: &str) {
        self.browser.call("Input.insertText", json!({ "text": token })).await;
        self.browser.press("Enter").await;
    }
}

#[tokio::test]
async fn a_page_that_asks_for_a_token_shows_nothing_before_and_nothing_after() {
    let mut shown = Shown::login().await;
    shown.is_accessible("login-").await;
    shown.log_in("hunter2").await;
    shown.says("#login-error", "the token is not a JWT").await;
    let hour = Duration::from_secs(3_600);
    let reader = token(&shown.demo, &[Scope::Read], hour);
    shown.log_in(&reader).await;
    shown.says("#login-error", "this needs the scope observe").await;
    // The browser itself tells of both.
    shown.browser.complaints.retain(|one| !one.contains("/api/session"));

    let all = token(&shown.demo, &Scope::ALL, hour);
    shown.log_in(&all).await;
    shown.says("#overall", "✓ all 7 ready").await;
    shown.says("#who-is", "kim may read, write, sync, observe, admin until").await;
    shown.until("rows are there, all equal", &all_equal("tr")).await;
    let readable = shown.browser.evaluate(READABLE).await;
    let readable = readable.as_str().unwrap();
    assert!(!readable.contains(&all) && !readable.contains("nudge-console"), "{readable}");
    shown.is_accessible("logged-in-").await;
    shown.browser.resize(WIDE.0, WIDE.1).await;
    shown.choose("store-001").await;
    shown.browser.evaluate("document.querySelector('#name').value = '햇살국수 새이름'").await;
    shown.click("#edit [type=submit]").await;
    shown.says("#result", "copies have it: the last").await;
    shown.click("#log-out").await;
    shown.asks("").await;

    // One that may only look is told so.
    let look = [Scope::Observe, Scope::Read, Scope::Sync];
    let minute = token(&shown.demo, &look, Duration::from_secs(60));
    shown.log_in(&minute).await;
    shown.says("#expires", "Your token expires within 1 min").await;
    shown.click("#subscribers .pause").await;
    shown.says("#subscribers", "this needs the scope admin").await;
    shown.click("#log-out").await;
    shown.asks("").await;

    // Whose token expires is out.
    let brief = token(&shown.demo, &look, Duration::from_secs(15));
    shown.log_in(&brief).await;
    shown.asks("Your token has expired").await;
    // The browser itself tells of what was refused, also of what the page asked just before its token ended.
    let refused = |one: &str| one.contains("/nudge/v1/pause") || one.contains("status of 401");
    shown.browser.complaints.retain(|one| !refused(one));
    shown.stop().await;
}
