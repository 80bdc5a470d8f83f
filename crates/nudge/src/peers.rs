//! The services that the commands, the console and chaos talk to: those of the demo, and others that are named.
//!
//! What a service is, is asked, not listed: a subscriber has a [status](crate::roles), an owner has a relay.

mod holders;

use std::{fs, path::PathBuf, time::Duration};

use clap::{Args, builder::BoolishValueParser};
use nudge_runtime::auth::{AuthArgs, Credentials};
use reqwest::{Method, Url};
use serde::{Deserialize, Serialize};

pub(crate) use holders::{Holder, holders};

use crate::{
    client::{Api, Service},
    failure::Failure,
};

/// Where the console lists the services that it knows.
pub(crate) const SERVICES_PATH: &str = "/api/services";
/// Where it lists who holds a consumer at its broker, which may take as long as the broker is waited for.
pub(crate) const HOLDERS_PATH: &str = "/api/holders";
/// Longest wait for that list. Without it, there are the demo's services.
const CONSOLE_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest name of a service, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Names that mean something else where a service's name stands.
const RESERVED: [&str; 5] = ["all", "NATS", "console", "why", "chaos"];
/// Most services that can be named.
const MAX_NAMED: usize = 64;
/// Largest file of them, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A service, and where it listens. There are few, and each is kept for as long as this program runs, so that a copy
/// costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer(&'static Place);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Place {
    name: String,
    url: String,
    demo: Option<Service>,
}

impl Peer {
    /// `url` is `http://host:port`.
    pub(crate) fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self::at(Place { name: name.into(), url: url.into(), demo: None })
    }

    /// A service of the demo.
    pub(crate) fn of(service: Service, port: u16) -> Self {
        let (name, url) = (service.name().to_owned(), format!("http://127.0.0.1:{port}"));
        Self::at(Place { name, url, demo: Some(service) })
    }

    fn at(place: Place) -> Self {
        Self(Box::leak(Box::new(place)))
    }

    /// What it is called here; the service itself may have another name.
    pub(crate) fn name(self) -> &'static str {
        &self.0.name
    }

    /// Such as `http://127.0.0.1:7102`.
    pub(crate) fn url(self) -> &'static str {
        &self.0.url
    }

    /// Such as `127.0.0.1:7102`.
    pub(crate) fn address(self) -> &'static str {
        let url = self.url();
        url.strip_prefix("http://").unwrap_or(url)
    }

    /// Its port; 80 if its URL has none.
    pub(crate) fn port(self) -> u16 {
        let port = self.address().rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        port.unwrap_or(80)
    }

    /// Which service of the demo it is; `None` if somebody has named it.
    pub(crate) fn demo(self) -> Option<Service> {
        self.0.demo
    }
}

/// Which other services there are.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Also {
    /// Another service, as NAME=http://HOST:PORT; can be given several times
    #[arg(long = "also", global = true, help_heading = "Everywhere", value_name = "NAME=URL", value_parser = named)]
    named: Vec<Peer>,
    /// A file with such a service on each line; lines that begin with # are comments
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        env = "NUDGE_ALSO_FROM",
        value_name = "FILE"
    )]
    also_from: Option<PathBuf>,
    /// A proxy or a service mesh does TLS: other machines may be reached without it
    #[arg(long, global = true, help_heading = "Everywhere", env = "BEHIND_PROXY", value_parser = BoolishValueParser::new())]
    behind_proxy: bool,
}

impl Also {
    /// Refuses to send anything to another machine without TLS, a token least of all.
    pub(crate) fn may_reach(&self, name: &str, url: &str) -> Result<(), Failure> {
        let settings = AuthArgs { behind_proxy: self.behind_proxy, ..AuthArgs::default() };
        // As it will be read, which is not always as it is written.
        let read = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let may = settings.refuse_plain_text(name, read.as_ref().map_or(url, Url::as_str));
        may.map_err(|refused| Failure::Usage(refused.to_string()))
    }

    /// All that are named.
    pub(crate) fn peers(&self) -> Result<Vec<Peer>, Failure> {
        let peers = self.named()?;
        peers.iter().try_for_each(|peer| self.may_reach(peer.name(), peer.url()))?;
        Ok(peers)
    }

    fn named(&self) -> Result<Vec<Peer>, Failure> {
        let mut peers = self.named.clone();
        if let Some(path) = &self.also_from {
            let usage = |why: String| Failure::Usage(format!("{}: {why}", path.display()));
            let size = fs::metadata(path).map_err(|error| usage(error.to_string()))?.len();
            if size > MAX_FILE_BYTES {
                return Err(usage(format!("is larger than {MAX_FILE_BYTES} bytes")));
            }
            let text = fs::read_to_string(path).map_err(|error| usage(error.to_string()))?;
            for (number, line) in text.lines().enumerate() {
                let line = line.trim();
                if !line.is_empty() && !line.starts_with('#') {
                    peers.push(
                        named(line).map_err(|why| usage(format!("line {}: {why}", number + 1)))?,
                    );
                }
            }
        }
        match peers.len() {
            0..=MAX_NAMED => Ok(peers),
            many => Err(Failure::Usage(format!(
                "{many} services are named; at most {MAX_NAMED} can be"
            ))),
        }
    }
}

/// A service that can be asked, as a console lists it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Named {
    /// What it is called.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) url: String,
}

/// A service that is to be asked for its name unless one is given.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The name that was given.
    pub(crate) name: Option<String>,
    /// Such as `http://127.0.0.1:7102`.
    pub(crate) url: String,
}

/// For `value_parser`.
pub(crate) fn wanted(text: &str) -> Result<Wanted, String> {
    match origin(text.trim()) {
        Some(url) => Ok(Wanted { name: None, url }),
        None if !text.contains('=') => {
            Err("must be http://HOST:PORT or https://HOST:PORT, or NAME= and that".to_owned())
        }
        None => named(text)
            .map(|peer| Wanted { name: Some(peer.name().into()), url: peer.url().into() }),
    }
}

/// Whether a service may be called this.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.chars().all(fits)
}

/// For `value_parser`.
fn named(text: &str) -> Result<Peer, String> {
    let (name, url) = text.split_once('=').ok_or("must be NAME=http://HOST:PORT")?;
    let (name, url) = (name.trim(), url.trim());
    if !is_name(name) {
        return Err(format!(
            "{name:?} must be 1 to {MAX_NAME_BYTES} of the characters a-z, 0-9, - and _"
        ));
    }
    if RESERVED.contains(&name) {
        return Err(format!("{name:?} means something else; choose another name"));
    }
    Ok(Peer::new(name, origin(url).ok_or("the URL must be http://HOST:PORT or https://HOST:PORT")?))
}

/// The URL as this program sends requests to it, if it names nothing but a host and a port: whatever else it had would
/// be lost.
fn origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    let origin = url.origin().ascii_serialization();
    (matches!(url.scheme(), "http" | "https") && bare).then_some(origin)
}

/// Adds services to those that are known. One that is there already is left out, and another of a known name gets a
/// number: `search~2`.
pub(crate) fn merge(known: &mut Vec<Peer>, others: impl IntoIterator<Item = Peer>) {
    for peer in others {
        if known.iter().any(|one| one.url() == peer.url()) {
            continue;
        }
        let taken = |name: &str| known.iter().any(|one| one.name() == name);
        let numbered = |n: u32| match n {
            1 => peer.name().to_owned(),
            n => format!("{}~{n}", peer.name()),
        };
        let free = (1..).map(numbered).find(|name| !taken(name));
        let name = free.expect("there are more numbers than services");
        known.push(Peer::new(name, peer.url()));
    }
}

/// The services at `port_base`, those that the console there knows, and those that are named here.
pub(crate) async fn find(
    port_base: u16,
    also: &Also,
    credentials: &Credentials,
) -> Result<Api, Failure> {
    let named = also.peers()?;
    let api = Api::new(port_base).signing(credentials);
    let console = console(port_base);
    let request = api.request(Method::GET, console, SERVICES_PATH).timeout(CONSOLE_TIMEOUT);
    // Whoever does not run `nudge dev` has no console.
    let found: Vec<Named> = api.json(console, request).await.unwrap_or_default();
    let told: Vec<_> =
        found.iter().filter_map(|one| named_by_console(&one.name, &one.url)).collect();
    told.iter().try_for_each(|peer| also.may_reach(peer.name(), peer.url()))?;
    let mut peers = api.peers().to_vec();
    merge(&mut peers, told);
    merge(&mut peers, named);
    Ok(api.with(peers))
}

/// The console at this port base.
pub(crate) fn console(port_base: u16) -> Peer {
    Peer::new("console", format!("http://127.0.0.1:{port_base}"))
}

/// What a console tells is checked like anything else that comes from outside.
fn named_by_console(name: &str, url: &str) -> Option<Peer> {
    let (base, _) = name.split_once('~').unwrap_or((name, ""));
    named(&format!("{base}={url}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(peers: &[Peer]) -> Vec<(&str, &str)> {
        peers.iter().map(|peer| (peer.name(), peer.url())).collect()
    }

    #[test]
    fn a_name_and_a_bare_url_name_a_service() {
        for (text, url) in [
            ("ads=http://127.0.0.1:7106", "http://127.0.0.1:7106"),
            ("ads=http://127.0.0.1:7106/", "http://127.0.0.1:7106"),
            ("ads = http://ads.local", "http://ads.local"),
            ("ads=HTTP://[::1]:80", "http://[::1]"),
            ("ads=https://ads.local:7106", "https://ads.local:7106"),
        ] {
            let peer = named(text).unwrap();
            assert_eq!((peer.name(), peer.url()), ("ads", url), "{text}");
        }
    }

    #[test]
    fn a_service_needs_no_name_if_it_can_be_asked() {
        let pair = |text| wanted(text).map(|wanted| (wanted.name, wanted.url));
        let url = "http://127.0.0.1:7106".to_owned();
        assert_eq!(pair("http://127.0.0.1:7106/"), Ok((None, url.clone())));
        assert_eq!(pair("ads=http://127.0.0.1:7106"), Ok((Some("ads".to_owned()), url)));
        for text in ["127.0.0.1:7106", "ftp://127.0.0.1", "Ads=http://127.0.0.1:1", "http://a/?b=c"]
        {
            assert!(pair(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_would_be_lost_or_mistaken_is_refused() {
        for text in [
            "ads",
            "=http://127.0.0.1:1",
            "all=http://127.0.0.1:1",
            "Ads=http://127.0.0.1:1",
            "a\u{1b}[31m=http://127.0.0.1:1",
            "ads=127.0.0.1:1",
            "ads=ftp://127.0.0.1:1",
            "ads=http://me:secret@127.0.0.1:1",
            "ads=http://127.0.0.1:1/base",
            "ads=http://127.0.0.1:1/?x=1",
            "ads=http://",
        ] {
            let refused = named(text).unwrap_err();
            assert!(!refused.contains("secret"), "{refused}");
        }
        assert!(named(&format!("{}=http://127.0.0.1:1", "a".repeat(65))).is_err());
    }

    #[test]
    fn behind_a_proxy_other_machines_may_be_reached_without_tls() {
        let peer = || named("mine=http://mine.example").unwrap();
        let also = |behind_proxy| Also { named: vec![peer()], behind_proxy, ..Also::default() };
        let Err(Failure::Usage(said)) = also(false).peers() else { panic!("it is refused") };
        assert!(said.contains("BEHIND_PROXY"), "{said}");
        assert_eq!(pairs(&also(true).peers().unwrap()), pairs(&[peer()]));
    }

    #[test]
    fn one_place_is_one_service_and_one_name_is_not() {
        let mut known = vec![Peer::new("search", "http://127.0.0.1:7102")];
        let peer = |port: u16| Peer::new("search", format!("http://127.0.0.1:{port}"));
        merge(&mut known, [peer(7102), peer(7202), peer(7302)]);
        let expected = [
            ("search", "http://127.0.0.1:7102"),
            ("search~2", "http://127.0.0.1:7202"),
            ("search~3", "http://127.0.0.1:7302"),
        ];
        assert_eq!(pairs(&known), expected);
    }

    #[test]
    fn a_file_names_services_line_by_line_and_the_wrong_line_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let also = Also { also_from: Some(file.path().to_owned()), ..Also::default() };
        fs::write(file.path(), "# ours\n\n  ads=http://127.0.0.1:7106\nb=http://127.0.0.1:2\r\n")
            .unwrap();
        let peers = also.peers().unwrap();
        assert_eq!(pairs(&peers), [("ads", "http://127.0.0.1:7106"), ("b", "http://127.0.0.1:2")]);
        fs::write(file.path(), "ads=http://127.0.0.1:7106\nads http://127.0.0.1:7106").unwrap();
        let refused = also.peers().unwrap_err();
        assert!(matches!(&refused, Failure::Usage(why) if why.contains("line 2: ")), "{refused}");
        let missing = Also { also_from: Some("no such file".into()), ..Also::default() };
        assert!(matches!(missing.peers(), Err(Failure::Usage(_))));
    }
}
