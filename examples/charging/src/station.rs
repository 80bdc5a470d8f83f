//! What a station is, and what an edit makes of it. Pure.

use nudge_protocol::{EntityId, object};
use nudge_runtime::problem::FieldError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest name of a station or of an operator, in characters.
pub const MAX_NAME_CHARS: usize = 100;
/// Most chargers of a station.
pub const MAX_CHARGERS: usize = 100;
/// Highest power of a charger, in kW.
pub const MAX_POWER_KW: f64 = 5_000.0;

/// A charging station, as it is sent, stored and handed to subscribers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Station {
    /// What people call it.
    #[schema(min_length = 1, max_length = 100, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub name: String,
    /// Who runs it.
    #[schema(min_length = 1, max_length = 100, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub operator: String,
    /// In degrees, north positive.
    #[schema(minimum = -90, maximum = 90)]
    pub latitude: f64,
    /// In degrees, east positive. The antimeridian is −180, never 180.
    #[schema(minimum = -180, exclusive_maximum = 180)]
    pub longitude: f64,
    /// Its chargers, each with an ID of its own.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 100)]
    pub chargers: Vec<Charger>,
}

/// One charger of a station.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Charger {
    /// Its ID within the station.
    pub id: EntityId,
    /// The connector of its cable.
    pub connector: Connector,
    /// The power that it can deliver, in kW.
    #[schema(exclusive_minimum = 0, maximum = 5_000)]
    pub power_kw: f64,
    /// What it is doing.
    pub state: ChargerState,
}

/// A type of connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Connector {
    /// IEC 62196 type 1, alternating current.
    Type1,
    /// IEC 62196 type 2, alternating current.
    Type2,
    /// Combined Charging System with a type 1 inlet.
    Ccs1,
    /// Combined Charging System with a type 2 inlet.
    Ccs2,
    /// CHAdeMO.
    Chademo,
    /// SAE J3400.
    Nacs,
}

/// What a charger is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChargerState {
    /// Free.
    Available,
    /// In use.
    Charging,
    /// Broken, or switched off.
    OutOfOrder,
}

/// A change of one station.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Gives it this state, whether it exists or not.
    Put(Station),
    /// Gives one of its chargers this state.
    Charger(EntityId, ChargerState),
    /// Removes it.
    Delete,
}

/// Why an edit is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such station.
    NoStation,
    /// The station has no such charger.
    NoCharger,
}

impl Edit {
    /// The station after this edit; `None` if it no longer exists.
    ///
    /// # Errors
    /// If what it changes does not exist.
    pub fn of(&self, before: Option<&Station>) -> Result<Option<Station>, Refusal> {
        match self {
            Self::Put(station) => Ok(Some(station.clone())),
            Self::Delete => before.map(|_| None).ok_or(Refusal::NoStation),
            Self::Charger(id, state) => {
                let mut station = before.cloned().ok_or(Refusal::NoStation)?;
                let charger = station.chargers.iter_mut().find(|charger| charger.id == *id);
                charger.ok_or(Refusal::NoCharger)?.state = *state;
                Ok(Some(station))
            }
        }
    }
}

impl Station {
    /// Everything that is wrong with it.
    pub fn faults(&self) -> Vec<FieldError> {
        let mut faults = Vec::new();
        let mut check = |right: bool, field: String, detail: String| {
            if !right {
                faults.push(FieldError { field, detail });
            }
        };
        for (field, name) in [("name", &self.name), ("operator", &self.operator)] {
            let fits = (1..=MAX_NAME_CHARS).contains(&name.chars().count());
            let detail = format!(
                "must have 1 to {MAX_NAME_CHARS} characters, none of them a control character"
            );
            check(fits && !name.contains(char::is_control), field.to_owned(), detail);
        }
        let latitude = (-90.0..=90.0).contains(&self.latitude);
        check(latitude, "latitude".to_owned(), "must be from -90 to 90".to_owned());
        let longitude = (-180.0..180.0).contains(&self.longitude);
        let detail = "must be from -180 to less than 180, which is -180".to_owned();
        check(longitude, "longitude".to_owned(), detail);
        if self.chargers.len() > MAX_CHARGERS {
            let detail = format!("must be at most {MAX_CHARGERS}");
            check(false, "chargers".to_owned(), detail);
            return faults;
        }
        for (place, charger) in self.chargers.iter().enumerate() {
            let twice = self.chargers[..place].iter().any(|other| other.id == charger.id);
            check(!twice, format!("chargers[{place}].id"), "must be given once".to_owned());
            let fits = charger.power_kw > 0.0 && charger.power_kw <= MAX_POWER_KW;
            let detail = format!("must be more than 0 and at most {MAX_POWER_KW}");
            check(fits, format!("chargers[{place}].power_kw"), detail);
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn station() -> Station {
        let charger =
            |id| json!({"id": id, "connector": "ccs2", "power_kw": 150.0, "state": "available"});
        let station = json!({
            "name": "시청역", "operator": "전기차충전소", "latitude": 37.5658, "longitude": 126.9772,
            "chargers": [charger("1"), charger("2")],
        });
        serde_json::from_value(station).unwrap()
    }

    #[test]
    fn an_edit_changes_what_it_names_and_nothing_else() {
        let before = station();
        let edit = Edit::Charger("2".parse().unwrap(), ChargerState::OutOfOrder);
        let mut expected = before.clone();
        expected.chargers[1].state = ChargerState::OutOfOrder;
        assert_eq!(edit.of(Some(&before)), Ok(Some(expected)));
        assert_eq!(Edit::Put(before.clone()).of(None), Ok(Some(before.clone())));
        assert_eq!(Edit::Delete.of(Some(&before)), Ok(None));
    }

    #[test]
    fn what_does_not_exist_cannot_be_changed() {
        let edit = Edit::Charger("3".parse().unwrap(), ChargerState::Charging);
        assert_eq!(edit.of(Some(&station())), Err(Refusal::NoCharger));
        assert_eq!(edit.of(None), Err(Refusal::NoStation));
        assert_eq!(Edit::Delete.of(None), Err(Refusal::NoStation));
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        let mut wrong = station();
        (wrong.name, wrong.operator) = (String::new(), "가".repeat(101));
        (wrong.latitude, wrong.longitude) = (90.1, 180.0);
        wrong.chargers[1].id = wrong.chargers[0].id.clone();
        (wrong.chargers[0].power_kw, wrong.chargers[1].power_kw) = (0.0, 5_001.0);
        let named: Vec<_> = wrong.faults().into_iter().map(|fault| fault.field).collect();
        let expected = [
            "name",
            "operator",
            "latitude",
            "longitude",
            "chargers[0].power_kw",
            "chargers[1].id",
            "chargers[1].power_kw",
        ];
        assert_eq!(named, expected);
        assert!(station().faults().is_empty());
    }
}
