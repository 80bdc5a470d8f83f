//! How an owner refuses a request, as the kit reads it.

use std::time::{Duration, Instant};

use axum::http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{DATE, RETRY_AFTER},
};
use nudge_runtime::breaker::{Breaker, MAX_RETRY_AFTER, Permit};
use nudge_subscriber_kit::owner_client::{FetchErrorKind, refusal as read};

/// The lines of the input are a status, a `Retry-After` and a `Date`; an empty line means that there is none.
///
/// - The meaning depends on the status alone, except that with a `Retry-After`, 429 says that the owner is busy, and 503
///   that it is unavailable.
/// - Without a `Retry-After`, there is no wait. A number of seconds is that wait; for a date as servers write it, the
///   wait is what a second, plain decoder computes, and zero if the date has passed.
/// - Whatever wait the owner asks for, the breaker lets a call through a minute later.
pub fn refusal(input: &[u8]) {
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let status = lines.next().and_then(|line| StatusCode::from_bytes(line).ok());
    let Some(status) = status else { return };
    let mut headers = HeaderMap::new();
    let mut text = |name| {
        let value = HeaderValue::from_bytes(lines.next().filter(|line| !line.is_empty())?).ok()?;
        headers.insert(name, value.clone());
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let (retry_after, date) = (text(RETRY_AFTER), text(DATE));

    let error = read(status, &headers);
    let expected = match (status.as_u16(), error.retry_after) {
        (429, Some(_)) => FetchErrorKind::Busy,
        (503, Some(_)) => FetchErrorKind::Unavailable,
        _ => read(status, &HeaderMap::new()).kind,
    };
    assert_eq!(error.kind, expected);
    match retry_after.as_deref().map(|asked| (seconds(asked), unix_time(asked), date)) {
        None => assert_eq!(error.retry_after, None),
        Some((Some(seconds), ..)) => {
            assert_eq!(error.retry_after, Some(Duration::from_secs(seconds)));
        }
        Some((None, Some(until), Some(date))) if unix_time(&date).is_some() => {
            let wait = unix_time(&date).and_then(|now| until.checked_sub(now)).unwrap_or(0);
            assert_eq!(error.retry_after, Some(Duration::from_secs(wait)));
        }
        Some(_) => {}
    }

    let (mut breaker, now) = (Breaker::new(), Instant::now());
    breaker.failure(now, error.retry_after);
    let later = now + MAX_RETRY_AFTER;
    assert!(!matches!(breaker.permit(later), Permit::Wait(_)), "{error:?}");
}

/// A plain number, possibly with a plus sign.
fn seconds(text: &str) -> Option<u64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let number = digits.bytes().try_fold(0u128, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u128::from(digit - b'0'))?;
        Some((number * 10 + digit).min(u128::from(u64::MAX) + 1))
    })?;
    u64::try_from(number).ok().filter(|_| !digits.is_empty())
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT`, the only form that servers write, counted
/// day by day.
fn unix_time(text: &str) -> Option<u64> {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let text = text.strip_suffix(" GMT").filter(|text| text.len() == 25 && text.is_ascii())?;
    let (weekday, text) = text.split_once(", ")?;
    let [day, month, year, time]: [&str; 4] =
        text.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let [hour, minute, second]: [&str; 3] = time.split(':').collect::<Vec<_>>().try_into().ok()?;
    let number = |text: &str, length, range: std::ops::Range<u64>| {
        let plain = text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse().ok())?.filter(|number| range.contains(number))
    };
    let month = (0..12).find(|at| &MONTHS[3 * at..3 * at + 3] == month)?;
    let year = number(year, 4, 1970..10_000)?;
    let day = number(day, 2, 1..days_in(month, year) + 1)?;
    let before: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let days = before + (0..month).map(|month| days_in(month, year)).sum::<u64>() + day - 1;
    let (hour, minute) = (number(hour, 2, 0..24)?, number(minute, 2, 0..60)?);
    let time = (hour * 60 + minute) * 60 + number(second, 2, 0..60)?;
    (WEEKDAYS[(days % 7) as usize] == weekday).then_some(days * 86_400 + time)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// Number of days in a month; months count from 0.
fn days_in(month: usize, year: u64) -> u64 {
    match month {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}
