//! Flags and environment variables, read once when a program starts.
//!
//! Each setting is a flag and an environment variable of the same name. If a value is invalid, the program
//! ends with one line that names the variable.

use std::{ffi::OsString, net::SocketAddr, num::NonZeroU32, process::exit};

use clap::{
    Arg, ArgMatches, Args, Command, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use tracing_subscriber::{filter::Directive, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    alerts::AlertArgs,
    auth::{AuthArgs, admission::AUDIT},
    broker::NatsArgs,
    logs::{Lines, bounded::Bounded},
    secret::{self, Secret},
    tls::PlainText,
    traces::TraceArgs,
};

/// The settings of every service.
#[derive(Args, Clone, Debug)]
pub struct ServiceArgs {
    /// Database: `sqlite:PATH` or `postgres://…` (at most 16 connections)
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL", value_parser = secret::given(database_url), required_unless_present = "database_url_file")]
    pub database_url: Option<Secret>,
    /// File with that URL
    #[arg(long, env = "DATABASE_URL_FILE", value_name = "PATH", value_parser = secret::in_file(database_url), conflicts_with = "database_url")]
    pub database_url_file: Option<Secret>,
    /// How to connect and log in to NATS
    #[command(flatten)]
    pub nats: NatsArgs,
    /// Where to tell an operator what needs one
    #[command(flatten)]
    pub alerts: AlertArgs,
    /// Who is answered, and the service's own token
    #[command(flatten)]
    pub auth: AuthArgs,
    /// Where to send traces, and which
    #[command(flatten)]
    pub traces: TraceArgs,
    /// Which messages to log, such as `info` or `nudge_subscriber_kit=debug`
    #[arg(long, env = "LOG", value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub log: String,
    /// Format of the log; `auto` is text on a terminal and JSON elsewhere
    #[arg(long, env = "LOG_FORMAT", value_name = "FORMAT", default_value = "auto", value_parser = ["auto", "text", "json"])]
    pub log_format: String,
}

/// Largest budget that may be set, in entities a second.
pub const MAX_CALLBACK_BUDGET: u32 = 1_000_000;

/// The settings of every service that owns an entity, beside those of every service.
#[derive(Args, Clone, Debug)]
pub struct OwnerArgs {
    /// How many entities a second all subscribers together may ask for, of each kind and at all replicas together
    /// [default: no limit]
    #[arg(long, env = "CALLBACK_BUDGET", value_name = "ENTITIES", value_parser = at_most(MAX_CALLBACK_BUDGET, "entities a second"))]
    pub callback_budget: Option<NonZeroU32>,
}

/// For `value_parser`: 1 to `most` of `what`.
pub(crate) fn at_most(
    most: u32,
    what: &'static str,
) -> impl Fn(&str) -> Result<NonZeroU32, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number: &NonZeroU32| number.get() <= most);
        number.ok_or_else(|| format!("must be 1 to {most} {what}"))
    }
}

impl ServiceArgs {
    /// The database's URL. It may hold a password.
    ///
    /// # Panics
    /// If neither setting is there, which no command line allows.
    pub fn database_url(&self) -> &str {
        let url = self.database_url.as_ref().or(self.database_url_file.as_ref());
        url.expect("one of them is required").expose()
    }

    /// Refuses databases, brokers, webhooks and trace collectors on other machines that would be reached without TLS, unless a
    /// proxy does it.
    ///
    /// # Errors
    /// If there are any.
    pub fn refuse_plain_text(&self) -> Result<(), PlainText> {
        self.auth.refuse_plain_text("DATABASE_URL", self.database_url())?;
        let webhook = self.alerts.alert_webhook_url.as_ref();
        if let Some(url) = webhook.or(self.alerts.alert_webhook_url_file.as_ref()) {
            self.auth.refuse_plain_text("ALERT_WEBHOOK_URL", url.expose())?;
        }
        if let Some(url) = &self.traces.otlp_endpoint {
            self.auth.refuse_plain_text("OTEL_EXPORTER_OTLP_ENDPOINT", url)?;
        }
        match self.nats.is_encrypted() {
            true => Ok(()),
            false => self.auth.refuse_plain_text("NATS_URL", &self.nats.nats_url),
        }
    }

    /// Starts logging to standard error. The same line is not logged more often than
    /// [a bound](crate::logs) allows. Call once, within an async runtime.
    pub fn init_logs(&self) {
        let at_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let as_json = match &*self.log_format {
            "json" => true,
            "text" => false,
            _ => !at_terminal,
        };
        let bounded = Bounded::default();
        tokio::spawn(bounded.clone().report());
        let lines = tracing_subscriber::registry()
            .with(tracing_subscriber::EnvFilter::new(&self.log).add_directive(audited()))
            .with(bounded);
        match as_json {
            // Its fields beside the message, where a collector finds them.
            true => lines
                .with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
                .init(),
            false => lines.with(fmt::layer().with_writer(Lines).with_ansi(at_terminal)).init(),
        }
    }
}

/// Who changed what is logged whatever the filter says.
fn audited() -> Directive {
    format!("{AUDIT}=info").parse().expect("a directive")
}

fn database_url(text: &str) -> Result<String, String> {
    let known = ["sqlite:", "postgres://", "postgresql://"];
    match known.iter().any(|scheme| text.starts_with(scheme)) {
        true => Ok(text.to_owned()),
        false => Err("must begin with sqlite: or postgres://".into()),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    let filter = tracing_subscriber::EnvFilter::builder().parse(text);
    filter.map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// For `value_parser`: an address to listen on. Whether it may be another than loopback is decided
/// [when it is used](crate::auth::Admission::listen).
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an address and a port, such as 127.0.0.1:7101".to_owned())
}

/// For `value_parser`: a loopback address to listen on.
pub fn loopback_address(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err("only loopback addresses are allowed".into()),
    }
}

/// For `value_parser`: an `http://` or `https://` base URL. Trailing slashes are removed.
pub fn http_url(text: &str) -> Result<String, String> {
    let url: axum::http::Uri = text.parse().map_err(|_| "is not a URL".to_owned())?;
    match (url.scheme_str(), url.host()) {
        (Some("http" | "https"), Some(_)) if url.query().is_none() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("must be http://host:port or https://host:port".into()),
    }
}

/// Parses the arguments of this process, or ends it: for `--help` as usual, for an invalid value with one line.
pub fn parse_or_exit<T: Parser>() -> T {
    parse_from_or_exit(std::env::args_os())
}

/// [`parse_or_exit`] with these words, the first of which is the program's name.
pub fn parse_from_or_exit<T: Parser>(words: impl IntoIterator<Item = OsString>) -> T {
    let matches = matches_or_exit(T::command(), words);
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// [`parse_from_or_exit`] for a command that is not derived from a type.
pub fn matches_or_exit(command: Command, words: impl IntoIterator<Item = OsString>) -> ArgMatches {
    match command.clone().try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) => match one_line(&command, &error) {
            Some(line) => {
                eprintln!("{line}");
                exit(2)
            }
            None => error.exit(),
        },
    }
}

/// An error about an invalid or missing value, as one line that names the variable and the flag.
fn one_line(command: &Command, error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let arg = text(ContextKind::InvalidArg)?;
    let named = with_variable(command, &arg);
    match error.kind() {
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let value = text(ContextKind::InvalidValue)?;
            let why = match std::error::Error::source(error) {
                Some(source) => source.to_string(),
                None => format!(
                    "expected one of: {}",
                    text(ContextKind::ValidValue).unwrap_or_default()
                ),
            };
            Some(format!("error: {named}: {}: {why}", shown(&value, is_secret(command, &arg))))
        }
        // Flags alone are named well enough by what says it otherwise.
        ErrorKind::ArgumentConflict if named != arg => {
            let other = text(ContextKind::PriorArg)?;
            Some(format!(
                "error: {named}: cannot be set together with {}",
                with_variable(command, &other)
            ))
        }
        ErrorKind::MissingRequiredArgument => Some(format!("error: {named}: must be set")),
        _ => None,
    }
}

/// A flag, behind the environment variable that stands for it.
fn with_variable(command: &Command, arg: &str) -> String {
    match variables(command, arg) {
        none if none.is_empty() => arg.to_owned(),
        env => format!("{env} ({arg})"),
    }
}

/// A value in the form in which an error may repeat it, since a URL may contain a password.
fn shown(value: &str, is_secret: bool) -> String {
    match is_secret || value.contains('@') || value.to_lowercase().contains("pass") {
        true => "(not shown, as it may contain a password)".to_owned(),
        false => format!("{value:?}"),
    }
}

/// Those of a command and of its verbs.
fn arguments(command: &Command) -> Box<dyn Iterator<Item = &Arg> + '_> {
    let verbs = command.get_subcommands().flat_map(arguments);
    Box::new(command.get_arguments().chain(verbs))
}

/// The settings of the flags in `shown`, which clap prints as `--name <VALUE>`.
fn settings<'a>(command: &'a Command, shown: &'a str) -> impl Iterator<Item = &'a Arg> {
    arguments(command).filter(move |arg| {
        let long = arg.get_long().map(|long| format!("--{long} ")).unwrap_or_default();
        !long.is_empty() && shown.split(", ").any(|one| format!("{one} ").starts_with(&long))
    })
}

/// Whether one of them is a secret.
fn is_secret(command: &Command, shown: &str) -> bool {
    settings(command, shown).any(Arg::is_hide_env_values_set)
}

/// Their environment variables.
fn variables(command: &Command, shown: &str) -> String {
    let names = settings(command, shown)
        .filter_map(|arg| arg.get_env())
        .map(|env| env.to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[derive(Parser, Debug)]
    struct Program {
        #[command(flatten)]
        service: ServiceArgs,
        #[command(flatten)]
        owner: OwnerArgs,
        #[arg(long, env = "BIND", value_parser = loopback_address, default_value = "127.0.0.1:0")]
        bind: SocketAddr,
    }

    fn line(args: &[&str]) -> String {
        let all = ["program"].iter().chain(args);
        one_line(&Program::command(), &Program::try_parse_from(all).unwrap_err()).unwrap()
    }

    #[test]
    fn each_bad_setting_is_one_line_that_names_its_variable() {
        for (args, variable) in [
            (&["--database-url", "mysql:x"][..], "DATABASE_URL"),
            (&["--database-url", "sqlite:x", "--bind", "0.0.0.0:1"], "BIND"),
            (&["--database-url", "sqlite:x", "--bind", "nonsense"], "BIND"),
            (&["--database-url", "sqlite:x", "--auth-jwks", "keys.json"], "AUTH_ISSUER"),
            (&["--database-url", "sqlite:x", "--tls-cert-file", "x"], "TLS_KEY_FILE"),
            (
                &["--database-url", "sqlite:x", "--tls-client-ca-file", "x"],
                "TLS_CERT_FILE, TLS_KEY_FILE",
            ),
            (&["--database-url", "sqlite:x", "--auth-clock-skew", "301"], "AUTH_CLOCK_SKEW"),
            (&["--database-url", "sqlite:x", "--auth-issuer", ""], "AUTH_ISSUER"),
            (&["--database-url", "sqlite:x", "--nats-url", "http://x y"], "NATS_URL"),
            (&["--database-url", "sqlite:x", "--log-format", "xml"], "LOG_FORMAT"),
            (&["--database-url", "sqlite:x", "--log", "a=b=c"], "LOG"),
            (
                &["--database-url", "sqlite:x", "--alert-webhook-url", "ftp://x"],
                "ALERT_WEBHOOK_URL",
            ),
            (&["--database-url", "sqlite:x", "--alert-subject", "a.>"], "ALERT_SUBJECT"),
            (&["--database-url", "sqlite:x", "--client-rate", "0"], "CLIENT_RATE"),
            (&["--database-url", "sqlite:x", "--client-rate", "9"], "AUTH_ISSUER"),
            (&["--database-url", "sqlite:x", "--callback-budget", "0"], "CALLBACK_BUDGET"),
            (&["--database-url", "sqlite:x", "--callback-budget=-5"], "CALLBACK_BUDGET"),
            (&["--database-url", "sqlite:x", "--callback-budget", "1000001"], "CALLBACK_BUDGET"),
            (&["--database-url", "sqlite:x", "--callback-budget", "many"], "CALLBACK_BUDGET"),
            (&[], "DATABASE_URL"),
            (&["--database-url-file", "/nowhere"], "DATABASE_URL_FILE"),
            (&["--database-url-file", "/dev/null"], "DATABASE_URL_FILE"),
        ] {
            let line = line(args);
            assert!(line.starts_with(&format!("error: {variable} (--")), "{args:?}: {line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_password_is_not_repeated() {
        for args in [
            &["--database-url", "mysql://nudge:hunter2@db/stores"][..],
            &["--database-url", "mysql://db/stores?password=hunter2"],
            &["--database-url", "sqlite:x", "--nats-url", "http://nudge:hunter2@x y"],
            &["--database-url", "sqlite:x", "--alert-webhook-url", "ftp://hooks/hunter2"],
            &["--database-url", "sqlite:x", "--otlp-headers", "hunter2"],
        ] {
            let line = line(args);
            assert!(!line.contains("hunter2") && line.contains("not shown"), "{line}");
        }
    }

    #[test]
    fn a_secret_may_be_in_a_file_and_settings_do_not_show_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let words = [
            "p",
            "--database-url-file",
            &file("database", "postgres://me:hunter2@db/stores\n"),
            "--alert-webhook-url-file",
            &file("webhook", "http://hooks/hunter2\n"),
            "--otlp-headers-file",
            &file("headers", "authorization=hunter2\n"),
            "--nats-url",
            "nats://me:hunter2@host",
        ];
        let program = Program::try_parse_from(words).unwrap();
        assert_eq!(program.service.database_url(), "postgres://me:hunter2@db/stores");
        assert!(!format!("{program:?}").contains("hunter2"), "{program:?}");
        let both = line(&["--database-url", "sqlite:x", words[1], words[2]]);
        let other = "cannot be set together with DATABASE_URL_FILE (--database-url-file <PATH>)";
        assert!(both.starts_with("error: DATABASE_URL (") && both.contains(other), "{both}");
        let malformed = file("malformed", "mysql://me:hunter2@db");
        let line = line(&["--database-url-file", &malformed]);
        assert!(line.contains("must begin with") && !line.contains("hunter2"), "{line}");
    }

    /// Operators set the server's `max_connections` by it.
    #[test]
    fn help_tells_how_many_connections_a_program_opens() {
        let help = Program::command().render_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let most = crate::database::POSTGRES_WRITERS + crate::database::POSTGRES_READERS;
        assert!(help.contains(&format!("at most {most} connections")), "{help}");
    }

    #[test]
    fn good_settings_are_taken() {
        let program = Program::try_parse_from(["p", "--database-url", "sqlite:a.db"]).unwrap();
        assert_eq!(program.service.database_url(), "sqlite:a.db");
        assert!(program.bind.ip().is_loopback());
        assert_eq!(http_url("http://127.0.0.1:7101/").unwrap(), "http://127.0.0.1:7101");
        assert!(http_url("ftp://x").is_err() && http_url("127.0.0.1:1").is_err());
    }
}
