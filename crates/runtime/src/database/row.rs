//! Rows with named columns.

use sqlx::{
    Row, ValueRef,
    any::{AnyRow, AnyTypeInfoKind},
};

/// A type that a field of a [`row!`](crate::row) can have.
pub trait Field: Sized {
    /// Reads the column of that name.
    ///
    /// # Errors
    /// If there is no such column, or it holds something else.
    fn of(row: &AnyRow, column: &str) -> Result<Self, sqlx::Error>;
}

macro_rules! fields {
    ($($field:ty),*) => {$(
        impl Field for $field {
            fn of(row: &AnyRow, column: &str) -> Result<Self, sqlx::Error> {
                row.try_get(column)
            }
        }
    )*};
}

fields!(String, i32, i64, f64, Vec<u8>);

/// Text that may come as bytes: on SQLite a text column may hold bytes that are not UTF-8, and a statement that
/// selects those as text fails completely. See [`typed`](crate::set_sql::typed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub String);

impl Field for Text {
    fn of(row: &AnyRow, column: &str) -> Result<Self, sqlx::Error> {
        if row.try_get_raw(column)?.type_info().kind() != AnyTypeInfoKind::Blob {
            return row.try_get(column).map(Self);
        }
        String::from_utf8(row.try_get(column)?).map(Self).map_err(|error| {
            let source = Box::new(error.utf8_error());
            sqlx::Error::ColumnDecode { index: column.to_owned(), source }
        })
    }
}

/// A `BIGINT` that is not 0, or a `BOOLEAN` of PostgreSQL.
impl Field for bool {
    fn of(row: &AnyRow, column: &str) -> Result<Self, sqlx::Error> {
        row.try_get(column).or_else(|_| row.try_get(column).map(|number: i64| number != 0))
    }
}

impl<T: Field> Field for Option<T> {
    fn of(row: &AnyRow, column: &str) -> Result<Self, sqlx::Error> {
        match row.try_get_raw(column)?.is_null() {
            true => Ok(None),
            false => T::of(row, column).map(Some),
        }
    }
}

/// Declares a struct that a row is read into, each field from the column of its name. For statements
/// with more than three columns, where a tuple would rely on the order alone.
///
/// sqlx's own derive would compile the drivers a second time, as a macro dependency.
///
/// ```
/// use nudge_runtime::{database::{Database, Durability}, row};
///
/// row! {
///     struct Shop { id: String, name: String, open: bool, closed_at: Option<i64> }
/// }
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let db = Database::open("sqlite::memory:", Durability::Full).await?;
/// let select = "SELECT 0 AS open, 'Moon' AS name, '42' AS id, 7 AS closed_at";
/// let shop: Shop = sqlx::query_as(select).fetch_one(db.reader()).await?;
/// assert_eq!((shop.id.as_str(), shop.name.as_str()), ("42", "Moon"));
/// assert_eq!((shop.open, shop.closed_at), (false, Some(7)));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// # Ok::<_, std::io::Error>(())
/// ```
#[macro_export]
macro_rules! row {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident {
        $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $type:ty),* $(,)?
    }) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($(#[$field_attribute])* $field_visibility $field: $type,)*
        }

        impl<'r> $crate::sqlx::FromRow<'r, $crate::sqlx::any::AnyRow> for $name {
            fn from_row(
                row: &'r $crate::sqlx::any::AnyRow,
            ) -> ::std::result::Result<Self, $crate::sqlx::Error> {
                ::std::result::Result::Ok(Self {
                    $($field: $crate::database::Field::of(row, stringify!($field))?,)*
                })
            }
        }
    };
}
