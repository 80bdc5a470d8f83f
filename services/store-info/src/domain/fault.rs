//! What is wrong with a store's JSON.

/// One fault in a store's JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The path of the field, such as `menus[1].price`.
    pub field: String,
    /// What it should be.
    pub detail: String,
}

/// All faults in a store's JSON. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(|f| format!("{}: {}", f.field, f.detail)).collect::<Vec<_>>().join("; "))]
pub struct Invalid(pub Vec<Fault>);

impl Invalid {
    /// A single fault.
    pub fn one(field: &str, detail: impl Into<String>) -> Self {
        Self(vec![Fault { field: field.into(), detail: detail.into() }])
    }
}
