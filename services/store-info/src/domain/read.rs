//! Parses JSON as a store, naming every fault.
//!
//! Parsed by hand instead of by derive: a derive stops at the first fault, but whoever corrects a form
//! wants to see all of them at once.

use nudge_protocol::EntityId;
use serde_json::{Map, Value};

use super::{
    fault::{Fault, Invalid},
    store::{
        MAX_ADDRESS_CHARS, MAX_DESCRIPTION_CHARS, MAX_LABEL_CHARS, MAX_MENU_NAME_CHARS, MAX_MENUS,
        MAX_NAME_CHARS, MAX_PHONE_CHARS, MAX_WON, Menu, Store,
    },
};

/// The names of a store's fields. Its JSON must not contain anything else.
pub const STORE_FIELDS: [&str; 12] = [
    "id",
    "name",
    "category",
    "region",
    "address",
    "neighbourhood",
    "phone",
    "description",
    "open",
    "min_order_amount",
    "delivery_fee",
    "menus",
];
const MENU_FIELDS: [&str; 2] = ["name", "price"];
/// How much of an unknown field's name is repeated in a fault, in characters.
const MAX_ECHO_CHARS: usize = 80;

/// Where the ID of a store comes from.
#[derive(Clone, Copy, Debug)]
pub enum GivenId<'a> {
    /// The path names it; the body may repeat it.
    InPath(&'a EntityId),
    /// The body must name it.
    InBody,
    /// The body may name it; otherwise this fresh one is used.
    InBodyOr(&'a EntityId),
}

impl Store {
    /// Reads a whole store. Missing fields get their defaults; only `name` is required.
    pub fn read(json: &Value, given: GivenId<'_>) -> Result<Self, Invalid> {
        let mut fields = Fields::of(String::new(), json, &STORE_FIELDS);
        let id = fields.id(given);
        let name = fields.text("name", Text { required: true, ..Text::up_to(MAX_NAME_CHARS) });
        let category = fields.text("category", Text::up_to(MAX_LABEL_CHARS));
        let region = fields.text("region", Text::up_to(MAX_LABEL_CHARS));
        let address = fields.text("address", Text::up_to(MAX_ADDRESS_CHARS));
        let neighbourhood = fields.text("neighbourhood", Text::up_to(MAX_LABEL_CHARS));
        let phone = fields.text("phone", Text::up_to(MAX_PHONE_CHARS));
        let description = Text { lines: true, ..Text::up_to(MAX_DESCRIPTION_CHARS) };
        let description = fields.text("description", description);
        let open = fields.flag("open", true);
        let min_order_amount = fields.won("min_order_amount", false);
        let delivery_fee = fields.won("delivery_fee", false);
        let menus = fields.menus();
        match (id, fields.faults.is_empty()) {
            (Some(id), true) => Ok(Self {
                id,
                name,
                category,
                region,
                address,
                neighbourhood,
                phone,
                description,
                open,
                min_order_amount,
                delivery_fee,
                menus,
            }),
            _ => Err(Invalid(fields.faults)),
        }
    }
}

/// What a text field may contain.
#[derive(Clone, Copy)]
struct Text {
    max_chars: usize,
    required: bool,
    /// Whether line breaks are allowed.
    lines: bool,
}

impl Text {
    const fn up_to(max_chars: usize) -> Self {
        Self { max_chars, required: false, lines: false }
    }
}

/// The fields of one JSON object, and the faults found so far. Each read returns the
/// field's value or, after noting a fault, with something of its type.
struct Fields<'a> {
    /// The prefix of these fields' names in faults: `menus[1].`.
    prefix: String,
    fields: Option<&'a Map<String, Value>>,
    faults: Vec<Fault>,
}

impl<'a> Fields<'a> {
    fn of(prefix: String, json: &'a Value, known: &[&str]) -> Self {
        let mut this = Self { prefix, fields: json.as_object(), faults: Vec::new() };
        match this.fields {
            None => {
                let field = this.prefix.trim_end_matches('.');
                let field = if field.is_empty() { "body" } else { field }.to_owned();
                this.faults.push(Fault { field, detail: "must be an object".into() });
            }
            Some(fields) => {
                for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
                    let short: String = name.chars().take(MAX_ECHO_CHARS).collect();
                    this.fault(&short, "is not a known field");
                }
            }
        }
        this
    }

    fn fault(&mut self, name: &str, detail: impl Into<String>) {
        self.faults.push(Fault { field: format!("{}{name}", self.prefix), detail: detail.into() });
    }

    /// The value of a field. Notes its absence if `required`; without an object that is already noted.
    fn value(&mut self, name: &str, required: bool) -> Option<&'a Value> {
        let value = self.fields?.get(name);
        if value.is_none() && required {
            self.fault(name, "is required");
        }
        value
    }

    fn id(&mut self, given: GivenId<'_>) -> Option<EntityId> {
        let in_body = match self.value("id", matches!(given, GivenId::InBody)) {
            None => None,
            Some(Value::String(text)) => match EntityId::new(text) {
                Ok(id) => Some(id),
                Err(error) => {
                    self.fault("id", error.to_string());
                    return None;
                }
            },
            Some(_) => {
                self.fault("id", "must be text");
                return None;
            }
        };
        match given {
            GivenId::InPath(id) if in_body.as_ref().is_some_and(|other| other != id) => {
                self.fault("id", "must equal the id in the path, or be left out");
                None
            }
            GivenId::InPath(id) => Some(id.clone()),
            GivenId::InBody => in_body,
            GivenId::InBodyOr(fresh) => Some(in_body.unwrap_or_else(|| fresh.clone())),
        }
    }

    fn text(&mut self, name: &str, allowed: Text) -> String {
        let Some(value) = self.value(name, allowed.required) else {
            return String::new();
        };
        let Some(text) = value.as_str() else {
            self.fault(name, "must be text");
            return String::new();
        };
        if allowed.required && text.is_empty() {
            self.fault(name, "must not be empty");
        }
        let chars = text.chars().count();
        if chars > allowed.max_chars {
            let max = allowed.max_chars;
            self.fault(name, format!("must be at most {max} characters, but has {chars}"));
        }
        if text.chars().any(|c| c.is_control() && !(allowed.lines && c == '\n')) {
            let except = if allowed.lines { " other than line breaks" } else { "" };
            self.fault(name, format!("must not contain control characters{except}"));
        }
        text.to_owned()
    }

    fn flag(&mut self, name: &str, default: bool) -> bool {
        let Some(value) = self.value(name, false) else {
            return default;
        };
        value.as_bool().unwrap_or_else(|| {
            self.fault(name, "must be true or false");
            default
        })
    }

    fn won(&mut self, name: &str, required: bool) -> i64 {
        let Some(value) = self.value(name, required) else {
            return 0;
        };
        // `as_i64` is None for 1.0 as well: fractions suggest that the sender uses another unit.
        value.as_i64().filter(|won| (0..=MAX_WON).contains(won)).unwrap_or_else(|| {
            self.fault(name, format!("must be a whole number of won from 0 to {MAX_WON}"));
            0
        })
    }

    fn menus(&mut self) -> Vec<Menu> {
        let Some(value) = self.value("menus", false) else {
            return Vec::new();
        };
        let Some(values) = value.as_array() else {
            self.fault("menus", "must be a list");
            return Vec::new();
        };
        if values.len() > MAX_MENUS {
            let count = values.len();
            self.fault("menus", format!("must hold at most {MAX_MENUS} menus, but has {count}"));
            return Vec::new();
        }
        let mut menus = Vec::with_capacity(values.len());
        for (position, value) in values.iter().enumerate() {
            let mut fields = Fields::of(format!("menus[{position}]."), value, &MENU_FIELDS);
            let name = Text { required: true, ..Text::up_to(MAX_MENU_NAME_CHARS) };
            menus.push(Menu { name: fields.text("name", name), price: fields.won("price", true) });
            self.faults.append(&mut fields.faults);
        }
        menus
    }
}

#[cfg(test)]
mod tests;
