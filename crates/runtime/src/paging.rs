//! Pages of rows: their size, and where the next one begins.

use crate::problem::Problem;

/// The limits of a page, in rows.
#[derive(Clone, Copy, Debug)]
pub struct PageSize {
    /// If no limit is requested.
    pub default: usize,
    /// The most.
    pub max: usize,
}

/// A limit that asks for no rows, or for too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be from 1 to {max}")]
pub struct InvalidLimit {
    max: usize,
}

impl PageSize {
    /// The number of rows for a page.
    ///
    /// # Errors
    /// If the requested number is out of range.
    ///
    /// ```
    /// let size = nudge_runtime::paging::PageSize { default: 20, max: 100 };
    /// assert_eq!(size.rows(None), Ok(20));
    /// assert_eq!(size.rows(Some(100)), Ok(100));
    /// assert_eq!(size.rows(Some(0)).unwrap_err().to_string(), "must be from 1 to 100");
    /// ```
    pub fn rows(self, asked: Option<usize>) -> Result<usize, InvalidLimit> {
        let rows = asked.unwrap_or(self.default);
        let within = (1..=self.max).contains(&rows);
        within.then_some(rows).ok_or(InvalidLimit { max: self.max })
    }

    /// [`rows`](Self::rows) for the parameter `limit` of a request.
    ///
    /// # Errors
    /// 400 that names it.
    pub fn limit(self, asked: Option<usize>) -> Result<usize, Problem> {
        self.rows(asked).map_err(|error| Problem::parameter("limit", error.to_string()))
    }
}

/// Cuts rows to one page of `limit`, and returns where the next begins: at `place` of the last row. They
/// are read with a limit of one more, which shows whether there is a next page.
///
/// ```
/// use nudge_runtime::paging::cut;
/// let mut rows = vec!['a', 'b', 'c'];
/// assert_eq!(cut(&mut rows, 2, |last| *last), Some('b'));
/// assert_eq!(rows, ['a', 'b']);
/// assert_eq!(cut(&mut rows, 2, |last| *last), None);
/// ```
pub fn cut<T, P>(rows: &mut Vec<T>, limit: usize, place: impl FnOnce(&T) -> P) -> Option<P> {
    let more = rows.len() > limit;
    rows.truncate(limit);
    rows.last().filter(|_| more).map(place)
}
