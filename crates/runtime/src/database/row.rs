//! Rows whose columns have names.

/// Declares a struct that a row is read into, each field from the column of its name. For a statement
/// of more than three columns: what stands in a tuple is told by its place alone.
///
/// Not sqlx's own derive, which would have the drivers compiled a second time, for the compiler.
///
/// ```
/// use nudge_runtime::{database::{Database, Durability}, row};
///
/// row! {
///     struct Shop { id: String, name: String, open: i64, closed_at: Option<i64> }
/// }
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let db = Database::open("sqlite::memory:", Durability::Full).await?;
/// let select = "SELECT 0 AS open, 'Moon' AS name, '42' AS id, 7 AS closed_at";
/// let shop: Shop = sqlx::query_as(select).fetch_one(db.reader()).await?;
/// assert_eq!((shop.id.as_str(), shop.name.as_str()), ("42", "Moon"));
/// assert_eq!((shop.open, shop.closed_at), (0, Some(7)));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// # Ok::<_, std::io::Error>(())
/// ```
#[macro_export]
macro_rules! row {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident {
        $($(#[$field_attribute:meta])* $field:ident: $type:ty),* $(,)?
    }) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($(#[$field_attribute])* $field: $type,)*
        }

        impl<'r> ::sqlx::FromRow<'r, ::sqlx::any::AnyRow> for $name {
            fn from_row(row: &'r ::sqlx::any::AnyRow) -> ::std::result::Result<Self, ::sqlx::Error> {
                use ::sqlx::Row as _;
                ::std::result::Result::Ok(Self { $($field: row.try_get(stringify!($field))?,)* })
            }
        }
    };
}
