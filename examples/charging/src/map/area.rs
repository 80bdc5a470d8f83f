//! Areas of a map, and the cells of the grid that the index is over. Pure.
//!
//! The grid has cells of 1/20 of a degree (5.6 km from south to north), numbered from −90, −180 eastward
//! and then northward. An area is one strip of cells for each row that it touches, and a strip is a range
//! of numbers: one range of an index over (cell, ID). At the antimeridian a row breaks into two.

use std::ops::RangeInclusive;

/// Greatest extent of an area, in degrees, from south to north and from west to east.
pub const MAX_SPAN_DEGREES: f64 = 1.0;
/// Cells per degree.
const CELLS_PER_DEGREE: f64 = 20.0;
/// Cells of one row, around the world.
const CELLS_PER_ROW: i64 = 360 * 20;

/// The cell in which a point lies. Longitudes are less than 180.
///
/// ```
/// use charging::map::area::cell;
/// assert_eq!(cell(-90.0, -180.0), 0);
/// assert_eq!(cell(-90.0, 179.99), 7_199);
/// assert_eq!(cell(-89.94, -180.0), 7_200);
/// ```
pub fn cell(latitude: f64, longitude: f64) -> i64 {
    row(latitude) * CELLS_PER_ROW + column(longitude)
}

fn row(latitude: f64) -> i64 {
    ((latitude + 90.0) * CELLS_PER_DEGREE).floor() as i64
}

fn column(longitude: f64) -> i64 {
    (((longitude + 180.0) * CELLS_PER_DEGREE).floor() as i64).min(CELLS_PER_ROW - 1)
}

/// What lies between two parallels and two meridians, on both of which it includes what lies there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    south: f64,
    north: f64,
    west: f64,
    east: f64,
}

/// What is wrong with a parameter of an area: its name, and what it must be.
pub type Fault = (&'static str, String);

/// A part of an area: some cells of one row, and the meridians between which a station must lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Strip {
    /// The cells.
    pub cells: RangeInclusive<i64>,
    /// The longitudes.
    pub longitudes: RangeInclusive<f64>,
}

impl Area {
    /// An area, in degrees. It extends from `west` eastward to `east`, so one with `west` > `east` lies
    /// across the antimeridian. 180 and −180 are the same meridian.
    ///
    /// # Errors
    /// Everything that is wrong, if it is not on Earth, upside down, or larger than [`MAX_SPAN_DEGREES`].
    pub fn new(south: f64, west: f64, north: f64, east: f64) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        for (name, value, most) in [
            ("south", south, 90.0),
            ("west", west, 180.0),
            ("north", north, 90.0),
            ("east", east, 180.0),
        ] {
            if !(-most..=most).contains(&value) {
                faults.push((name, format!("must be from {} to {most}", -most)));
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        if !(0.0..=MAX_SPAN_DEGREES).contains(&(north - south)) {
            let detail = format!("must be at most {MAX_SPAN_DEGREES}° north of `south`");
            faults.push(("north", detail));
        }
        let eastward = if west <= east { east - west } else { east - west + 360.0 };
        if eastward > MAX_SPAN_DEGREES {
            faults.push(("east", format!("must be at most {MAX_SPAN_DEGREES}° east of `west`")));
        }
        let wrapped = |longitude: f64| if longitude == 180.0 { -180.0 } else { longitude };
        match faults.is_empty() {
            true => Ok(Self { south, north, west: wrapped(west), east: wrapped(east) }),
            false => Err(faults),
        }
    }

    /// Its latitudes.
    pub fn latitudes(&self) -> RangeInclusive<f64> {
        self.south..=self.north
    }

    /// Its strips, in the order of their cells.
    pub fn strips(&self) -> impl Iterator<Item = Strip> {
        let Self { west, east, .. } = *self;
        let parts = match west <= east {
            true => vec![west..=east],
            false => vec![-180.0..=east, west..=180.0],
        };
        let strip = |row: i64, longitudes: RangeInclusive<f64>| {
            let first = row * CELLS_PER_ROW;
            let cells = first + column(*longitudes.start())..=first + column(*longitudes.end());
            Strip { cells, longitudes }
        };
        (row(self.south)..=row(self.north))
            .flat_map(move |row| parts.clone().into_iter().map(move |part| strip(row, part)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wrong(south: f64, west: f64, north: f64, east: f64) -> Vec<&'static str> {
        let faults = Area::new(south, west, north, east).unwrap_err();
        faults.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_is_not_an_area_is_refused_with_all_that_is_wrong() {
        assert_eq!(
            wrong(-90.1, f64::NAN, f64::INFINITY, 180.1),
            ["south", "west", "north", "east"]
        );
        assert_eq!(wrong(37.5, 127.0, 37.4, 127.1), ["north"]);
        assert_eq!(wrong(37.0, 126.0, 38.1, 127.1), ["north", "east"]);
        assert_eq!(wrong(0.0, 1.0, 1.0, 0.0), ["east"], "almost the whole way round");
        assert_eq!(wrong(0.0, -180.0, 1.0, 180.0), ["east"], "the whole way round");
        assert!(Area::new(89.0, 179.0, 90.0, 180.0).is_ok());
        assert!(Area::new(0.0, 0.0, 0.0, 0.0).is_ok());
    }

    #[test]
    fn an_area_across_the_antimeridian_is_two_strips_a_row() {
        let strips = |west, east| {
            let area = Area::new(0.0, west, 0.0, east).unwrap();
            area.strips().map(|strip| strip.longitudes).collect::<Vec<_>>()
        };
        assert_eq!(strips(179.5, -179.5), [-180.0..=-179.5, 179.5..=180.0]);
        assert_eq!(strips(179.5, 180.0), [-180.0..=-180.0, 179.5..=180.0]);
        assert_eq!(strips(180.0, -179.5), [-180.0..=-179.5]);
        assert_eq!(strips(-180.0, -179.5), [-180.0..=-179.5]);
    }

    proptest! {
        #[test]
        fn the_strips_of_an_area_contain_each_point_of_it_once_and_their_cells_rise(
            (south, west) in (-90.0..90.0, -180.0..180.0),
            (high, wide) in (0.0..=MAX_SPAN_DEGREES, 0.0..=MAX_SPAN_DEGREES),
            (up, right) in (0.0..=1.0, 0.0..=1.0),
        ) {
            let wrap = |longitude: f64| if longitude >= 180.0 { longitude - 360.0 } else { longitude };
            let (south, west): (f64, f64) = (south, west);
            let north = (south + high).min(90.0);
            prop_assume!(north - south <= MAX_SPAN_DEGREES);
            let Ok(area) = Area::new(south, west, north, wrap(west + wide)) else {
                // Rounding made it wider than it may be.
                return Err(TestCaseError::reject("too wide"));
            };
            let (latitude, longitude) = (south + (north - south) * up, wrap(west + wide * right));
            let cell = cell(latitude, longitude);
            let within = |strip: &Strip| {
                strip.cells.contains(&cell) && strip.longitudes.contains(&longitude)
            };
            prop_assert_eq!(area.strips().filter(within).count(), 1);
            let all: Vec<_> = area.strips().collect();
            prop_assert!(all.windows(2).all(|pair| pair[0].cells.end() < pair[1].cells.start()));
            prop_assert!(all.len() <= 2 * 21);
        }
    }
}
