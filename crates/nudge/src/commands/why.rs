//! `nudge why`: one entity's story.

mod paragraph;
mod timeline;

use std::str::FromStr;

use clap::Args;
use console::style;
use nudge_protocol::{EntityId, EntityName, subject};

use crate::{
    client::Api,
    failure::Failure,
    output,
    why::{self, Finding, Reason, Story},
};
use paragraph::{WIDTH, paragraph};

/// Arguments of `nudge why`.
#[derive(Args, Debug)]
pub(crate) struct WhyArgs {
    /// The entity, such as store/42; its ID as it is, or percent-encoded as in a Nudge-Token
    #[arg(value_name = "ENTITY/ID")]
    key: Key,
    /// The subscriber
    #[arg(long, value_name = "WHO", default_value = "all")]
    subscriber: String,
}

/// Which entity.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    entity: EntityName,
    id: EntityId,
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (entity, id) = text.split_once('/').ok_or("must be ENTITY/ID, such as store/42")?;
        let entity = EntityName::new(entity).map_err(|error| error.to_string())?;
        // What is encoded just as this program would encode it was copied from a token.
        let token = subject::decode_token(id).ok().filter(|decoded| {
            let encoded = subject::encode_token(decoded);
            encoded == id
        });
        let id = match token {
            Some(id) => id,
            None => EntityId::new(id).map_err(|error| error.to_string())?,
        };
        Ok(Self { entity, id })
    }
}

/// Runs `nudge why`.
pub(crate) async fn run(api: Api, args: WhyArgs, json: bool) -> Result<(), Failure> {
    let WhyArgs { key: Key { entity, id }, subscriber } = args;
    let story = why::tell(&api, &subscriber, entity, id).await?;
    match json {
        true => output::json(&story)?,
        false => to_lines(&story).into_iter().try_for_each(output::line)?,
    }
    match story.because.map(|place| &story.findings[place]) {
        None => Ok(()),
        Some(finding) => {
            let (held, at) = (&story.held, &finding.at);
            Err(Failure::failed(format!(
                "{}/{} is not equal everywhere: see {at}",
                held.entity, held.id
            )))
        }
    }
}

/// The story in words.
fn to_lines(story: &Story) -> Vec<String> {
    let mut lines = headline(story);
    lines.push(String::new());
    let width = story.findings.iter().map(|finding| finding.at.chars().count()).max().unwrap_or(0);
    for (place, finding) in story.findings.iter().enumerate() {
        lines.extend(one_place(finding, width, story.because == Some(place)));
    }
    let timeline = timeline::lines(story);
    if !timeline.is_empty() {
        lines.push(String::new());
        lines.extend(timeline);
    }
    lines
}

fn headline(story: &Story) -> Vec<String> {
    let key = format!("{}/{}", story.held.entity, story.held.id);
    let because = story.because.map(|place| &story.findings[place]);
    let says = match because {
        Some(finding) => format!("{key} is late because of {}.", finding.at),
        None if story.findings.iter().any(|finding| finding.reason == Reason::Unknown) => {
            format!("{key} does not exist, and never did.")
        }
        None => format!("{key} is equal everywhere."),
    };
    paragraph("", &says, WIDTH).into_iter().map(|line| style(line).bold().to_string()).collect()
}

fn one_place(finding: &Finding, width: usize, is_the_reason: bool) -> Vec<String> {
    // A sign, and not the colour alone.
    let sign = match (is_the_reason, finding.behind) {
        (true, _) => "▶",
        (false, true) => "!",
        (false, false) => " ",
    };
    let begin = format!("{sign} {:width$}  ", finding.at);
    let mut lines = paragraph(&begin, &finding.says, WIDTH);
    if is_the_reason {
        lines = lines.into_iter().map(|line| style(line).yellow().to_string()).collect();
    }
    if let Some(todo) = &finding.todo {
        let begin = format!("{:1$}→ ", "", width + 4);
        lines.extend(paragraph(&begin, todo, WIDTH));
    }
    lines
}

#[cfg(test)]
mod tests;
