//! The fields of a store, as flags and as text.

use clap::Args;
use serde_json::{Map, Value, json};

/// Fields to change. Each is optional; the others stay as they are.
#[derive(Args, Clone, Debug, Default)]
#[group(id = "Fields", multiple = true)]
pub(crate) struct Fields {
    /// Name
    #[arg(long)]
    name: Option<String>,
    /// Category, such as korean or cafe
    #[arg(long)]
    category: Option<String>,
    /// Region
    #[arg(long)]
    region: Option<String>,
    /// Address
    #[arg(long)]
    address: Option<String>,
    /// Neighbourhood
    #[arg(long)]
    neighbourhood: Option<String>,
    /// Phone number
    #[arg(long)]
    phone: Option<String>,
    /// Description
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Whether the store takes orders
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set)]
    open: Option<bool>,
    /// Minimum order, in won
    #[arg(long, value_name = "WON")]
    min_order_amount: Option<u64>,
    /// Delivery fee, in won
    #[arg(long, value_name = "WON")]
    delivery_fee: Option<u64>,
    /// A dish and its price in won; repeat for each dish. Together they replace the whole menu
    #[arg(long = "menu", value_name = "NAME=WON", value_parser = menu)]
    menus: Vec<(String, u64)>,
}

fn menu(text: &str) -> Result<(String, u64), String> {
    // The last '=' divides, so that a name may hold one.
    let divided = text.rsplit_once('=').map(|(name, price)| (name.trim(), price.trim().parse()));
    match divided {
        Some((name, Ok(price))) if !name.is_empty() => Ok((name.to_owned(), price)),
        _ => Err("must be a name, '=' and a whole number of won, such as 잔치국수=7000".into()),
    }
}

impl Fields {
    /// The given fields as JSON.
    pub(crate) fn to_json(&self) -> Map<String, Value> {
        let texts = [
            ("name", &self.name),
            ("category", &self.category),
            ("region", &self.region),
            ("address", &self.address),
            ("neighbourhood", &self.neighbourhood),
            ("phone", &self.phone),
            ("description", &self.description),
        ];
        let texts = texts.into_iter().map(|(field, text)| (field, text.as_ref().map(|t| json!(t))));
        let menu = |(name, price): &(String, u64)| json!({"name": name, "price": price});
        let menus = (!self.menus.is_empty()).then(|| self.menus.iter().map(menu).collect());
        let others = [
            ("open", self.open.map(Value::from)),
            ("min_order_amount", self.min_order_amount.map(Value::from)),
            ("delivery_fee", self.delivery_fee.map(Value::from)),
            ("menus", menus),
        ];
        let given = texts.chain(others).filter_map(|(field, value)| Some((field.into(), value?)));
        given.collect()
    }
}

/// A store as text for people.
pub(crate) fn show(store: &Map<String, Value>, version: &str) -> Vec<String> {
    let text = |field: &str| match store.get(field) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let mut lines = vec![text("name")];
    let mut row = |label: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("  {label:<14} {value}"));
        }
    };
    row("id", text("id"));
    row("version", version.to_owned());
    row("category", text("category"));
    row("region", text("region"));
    row("address", text("address"));
    row("neighbourhood", text("neighbourhood"));
    row("phone", text("phone"));
    let open = store.get("open").and_then(Value::as_bool).unwrap_or_default();
    row("open", if open { "yes" } else { "no" }.to_owned());
    row("minimum order", format!("{} won", text("min_order_amount")));
    row("delivery fee", format!("{} won", text("delivery_fee")));
    row("description", text("description"));
    for menu in store.get("menus").and_then(Value::as_array).into_iter().flatten() {
        let name = menu["name"].as_str().unwrap_or_default();
        row("menu", format!("{name}, {} won", menu["price"]));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_menu_is_divided_at_its_last_equals_sign() {
        assert_eq!(menu("세트 A=B = 7000"), Ok(("세트 A=B".into(), 7000)));
        for wrong in ["잔치국수", "=7000", "잔치국수=", "잔치국수=-1", "잔치국수=7.5"]
        {
            assert!(menu(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_given_fields_are_sent() {
        assert!(Fields::default().to_json().is_empty());
        let fields =
            Fields {
                open: Some(false), menus: vec![("국수".into(), 7000)], ..Default::default()
            };
        let expected = json!({"open": false, "menus": [{"name": "국수", "price": 7000}]});
        assert_eq!(Value::from(fields.to_json()), expected);
    }

    #[test]
    fn what_is_empty_is_not_shown() {
        let store = json!({"id": "42", "name": "달빛", "open": true, "phone": "",
            "min_order_amount": 0, "delivery_fee": 2500, "menus": [{"name": "국수", "price": 7000}]});
        let lines = show(store.as_object().unwrap(), "17");
        assert_eq!(lines[0], "달빛");
        assert!(lines.contains(&"  menu           국수, 7000 won".to_owned()), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("phone")), "{lines:?}");
    }
}
