//! `nudge bench`: speed, beside what people would use instead, in the same run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use nudge_bench::{NAMES, Options, Report};
use nudge_runtime::{database::Kind, problem::chain};
use nudge_testbed::{nats, script};

use crate::{dev::guard, failure::Failure, output};

/// Where the figures begin and end in a file that says more.
const BEGIN: &str = "<!-- nudge bench begins -->";
const END: &str = "<!-- nudge bench ends -->";

/// Arguments of `nudge bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// What to measure: all of it unless some are named
    #[arg(value_name = "FIGURE", value_parser = clap::builder::PossibleValuesParser::new(NAMES))]
    figures: Vec<String>,
    /// How many times each figure is measured
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
    rounds: u8,
    /// The databases of owner and read models
    #[arg(long, value_enum, default_value_t = Databases::Both)]
    database: Databases,
    /// A tenth of the entities and changes: to see that it works, not to compare
    #[arg(long)]
    quick: bool,
    /// Write the figures as JSON to this file
    #[arg(long, value_name = "PATH")]
    report: Option<PathBuf>,
    /// Draw the figures as an SVG image in this file
    #[arg(long, value_name = "PATH")]
    svg: Option<PathBuf>,
    /// Write the figures as a table into this Markdown file, in place of those of an earlier run
    #[arg(long, value_name = "PATH")]
    markdown: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Databases {
    Sqlite,
    Postgres,
    Both,
}

/// Runs `nudge bench`.
pub(crate) async fn run(args: BenchArgs, json: bool) -> Result<(), Failure> {
    let kinds = match args.database {
        Databases::Sqlite => vec![Kind::Sqlite],
        Databases::Postgres => vec![Kind::Postgres],
        Databases::Both => vec![Kind::Sqlite, Kind::Postgres],
    };
    let checkout = script("nats-server");
    nats::find(&[&checkout], || eprintln!("bench: looking for nats-server"))
        .await
        .map_err(Failure::failed)?;
    if kinds.contains(&Kind::Postgres) && !script("postgres").is_file() {
        let hint = "--database sqlite does without";
        let what = "PostgreSQL is run by scripts/postgres of the checkout that this was built in, which is gone";
        return Err(Failure::failed(format!("{what}: {hint}")));
    }
    // Told at once, rather than after minutes.
    for path in [&args.report, &args.svg, &args.markdown].into_iter().flatten() {
        let opened = fs::OpenOptions::new().create(true).append(true).open(path);
        opened.map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
    }
    let exe = std::env::current_exe().map_err(|error| {
        Failure::failed(format!("cannot find this program's own path: {error}"))
    })?;
    let (rounds, only) = (usize::from(args.rounds), args.figures);
    let guard_verb = guard::VERB;
    let options = Options { rounds, kinds, only, quick: args.quick, exe, guard_verb };
    let progress = |what: &str| eprintln!("bench: {what}");
    let (report, measured) = nudge_bench::run(&options, &progress).await;
    // A part of the figures takes the place of no whole table.
    let whole = |path: &Option<PathBuf>| path.clone().filter(|_| measured.is_ok());
    let (svg, markdown) = (whole(&args.svg), whole(&args.markdown));
    save(&report, args.report.as_deref(), svg.as_deref(), markdown.as_deref())?;
    progress(&report.machine);
    match json {
        true => output::json(&report)?,
        false => output::table(&report.rows()).into_iter().try_for_each(output::line)?,
    }
    measured.map_err(|error| Failure::failed(chain(&*error)))
}

fn save(
    report: &Report,
    json: Option<&Path>,
    svg: Option<&Path>,
    markdown: Option<&Path>,
) -> Result<(), Failure> {
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(report).expect("our own values always serialize");
        write(path, &(text + "\n"))?;
    }
    if let Some(path) = svg {
        write(path, &report.svg())?;
    }
    if let Some(path) = markdown {
        write(path, &with_figures(&read(path)?, &table(report)))?;
    }
    Ok(())
}

/// The figures as a Markdown table.
fn table(report: &Report) -> String {
    let rows = report.rows();
    let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
    let rule = format!("|{}\n", "---|".repeat(rows.first().map_or(0, Vec::len)));
    let mut text = format!(
        "{}, {} rounds on {}{}.\n\n",
        report.at,
        report.rounds,
        report.machine,
        if report.quick { ", with a tenth of everything" } else { "" },
    );
    for (n, row) in rows.iter().enumerate() {
        text.push_str(&line(row));
        if n == 0 {
            text.push_str(&rule);
        }
    }
    text
}

/// A text with these figures in place of the earlier ones; at its end, if it has none.
fn with_figures(text: &str, figures: &str) -> String {
    let figures = format!("{BEGIN}\n\n{figures}\n{END}");
    match text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)))
    {
        Some((before, after)) => format!("{before}{figures}{after}"),
        None if text.is_empty() => figures + "\n",
        None => format!("{}\n\n{figures}\n", text.trim_end()),
    }
}

/// What is in a file; nothing if there is none.
fn read(path: &Path) -> Result<String, Failure> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| Failure::failed(format!("{}: {error}", path.display()))),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let written = fs::write(path, text);
    written.map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_take_the_place_of_earlier_ones_and_nothing_else() {
        let text = with_figures("# Benchmarks\n\nHow.\n", "old");
        assert_eq!(text, format!("# Benchmarks\n\nHow.\n\n{BEGIN}\n\nold\n{END}\n"));
        let text = with_figures(&(text + "\nMore.\n"), "new");
        assert_eq!(text, format!("# Benchmarks\n\nHow.\n\n{BEGIN}\n\nnew\n{END}\n\nMore.\n"));
        assert_eq!(with_figures("", "new"), format!("{BEGIN}\n\nnew\n{END}\n"));
    }
}
