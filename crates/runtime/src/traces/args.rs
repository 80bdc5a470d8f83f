//! The settings, named as OpenTelemetry names them.

use axum::http::{HeaderName, HeaderValue};
use clap::Args;
use percent_encoding::percent_decode_str;

use super::{Headers, Sampler};
use crate::{
    args::http_url,
    secret::{self, Secret},
};

/// The environment variables that decide about traces, here and in the exporter.
pub const VARIABLES: [&str; 8] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_HEADERS_FILE",
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    // Read by the exporter alone.
    "OTEL_RESOURCE_ATTRIBUTES",
];

/// Where to send traces, and which. Off unless `OTEL_EXPORTER_OTLP_ENDPOINT` is set.
#[derive(Args, Clone, Debug, Default)]
pub struct TraceArgs {
    /// Send traces to this OpenTelemetry collector, over HTTP (needs a build with `--features otlp`)
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", value_parser = http_url)]
    pub otlp_endpoint: Option<String>,
    /// In which form to send them; there is only one
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", value_name = "PROTOCOL", default_value = "http/protobuf", value_parser = ["http/protobuf"])]
    pub otlp_protocol: String,
    /// Headers for that collector, such as `authorization=Bearer%20…`; several are separated by commas
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS", hide_env_values = true, value_name = "HEADERS", value_parser = secret::given(headers))]
    pub otlp_headers: Option<Secret>,
    /// File with those headers
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS_FILE", value_name = "PATH", value_parser = secret::in_file(headers), conflicts_with = "otlp_headers")]
    pub otlp_headers_file: Option<Secret>,
    /// Name of the service in traces, instead of its own
    #[arg(long, env = "OTEL_SERVICE_NAME", value_name = "NAME")]
    pub trace_service_name: Option<String>,
    /// Which traces to record: always_on, always_off, traceidratio, or parentbased_ and one of these, which does as the
    /// caller does and decides only where nobody has
    #[arg(long, env = "OTEL_TRACES_SAMPLER", value_name = "SAMPLER", default_value = "parentbased_always_on", value_parser = Sampler::parse)]
    pub traces_sampler: Option<Sampler>,
    /// The share of traces that traceidratio records, from 0 to 1
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", value_name = "RATIO", default_value = "1", value_parser = ratio)]
    pub traces_sampler_arg: Option<f64>,
}

impl TraceArgs {
    /// What else is sent to the collector with each request.
    pub(super) fn headers(&self) -> Headers {
        let text = self.otlp_headers.as_ref().or(self.otlp_headers_file.as_ref());
        text.and_then(|text| pairs(text.expose())).unwrap_or_default()
    }

    /// The sampler with its share.
    pub(super) fn sampler(&self) -> Sampler {
        let sampler = self.traces_sampler.unwrap_or_default();
        self.traces_sampler_arg.map_or(sampler, |ratio| sampler.with_ratio(ratio))
    }
}

/// The headers in such a text, decoded; `None` if it holds something else.
fn pairs(text: &str) -> Option<Headers> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let name = name.trim().parse::<HeaderName>().ok()?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let fits = HeaderValue::from_str(&value).is_ok();
        fits.then(|| (name.to_string(), value.into_owned()))
    };
    text.split(',').filter(|one| !one.trim().is_empty()).map(pair).collect()
}

fn headers(text: &str) -> Result<String, String> {
    match pairs(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("must be NAME=VALUE, percent-encoded, with commas in between".into()),
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("must be a number from 0 to 1".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        traces: TraceArgs,
    }

    #[test]
    fn every_variable_is_listed() {
        let command = <Program as clap::CommandFactory>::command();
        let named = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str());
        assert_eq!(named.collect::<Vec<_>>(), VARIABLES[..7]);
    }

    #[test]
    fn headers_for_the_collector_are_decoded() {
        let headers = |text| {
            let program = Program::try_parse_from(["p", "--otlp-headers", text]).ok()?;
            let mut headers: Vec<_> = program.traces.headers().into_iter().collect();
            headers.sort_unstable();
            Some(headers)
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let two = vec![pair("api-key", "k=1"), pair("authorization", "Bearer x")];
        assert_eq!(headers("Authorization=Bearer%20x, api-key=k=1"), Some(two));
        for bad in ["x", "a b=c", "a=%0A", "a=%FF"] {
            assert_eq!(headers(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for bad in [
            ["--otlp-endpoint", "ftp://127.0.0.1:4318"],
            ["--otlp-protocol", "grpc"],
            ["--traces-sampler", "jaeger_remote"],
            ["--traces-sampler-arg", "1.5"],
            ["--traces-sampler-arg", "NaN"],
        ] {
            assert!(Program::try_parse_from(["p"].iter().chain(&bad)).is_err(), "{bad:?}");
        }
        let program = Program::try_parse_from(["p"]).unwrap();
        assert_eq!(program.traces.otlp_endpoint, None);
        assert_eq!(program.traces.sampler(), Sampler::default());
    }
}
