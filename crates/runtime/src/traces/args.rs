//! The settings, named as OpenTelemetry names them.

use clap::Args;

use super::Sampler;
use crate::args::http_url;

/// The environment variables that decide about traces, here and in the exporter.
pub const VARIABLES: [&str; 7] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    // Read by the exporter alone.
    "OTEL_EXPORTER_OTLP_HEADERS",
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
    /// The sampler with its share.
    pub(super) fn sampler(&self) -> Sampler {
        let sampler = self.traces_sampler.unwrap_or_default();
        self.traces_sampler_arg.map_or(sampler, |ratio| sampler.with_ratio(ratio))
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
        assert_eq!(named.collect::<Vec<_>>(), VARIABLES[..5]);
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
