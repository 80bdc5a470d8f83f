use clap::Parser;
use serde_json::{Value, json};

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    fault: Fault,
}

fn of(line: &str) -> Fault {
    Line::try_parse_from(format!("break {line}").split(' ')).unwrap().fault
}

fn refused(kind: &str, body: &Value) -> (u16, String) {
    let read = Fault::read(kind, body.to_string().as_bytes());
    let problem = read.and_then(|fault| fault.act()).unwrap_err();
    (problem.status.as_u16(), problem.errors[0].field.clone())
}

/// A command line as the page shows it, and what the page sends.
#[test]
fn a_command_and_a_request_say_the_same() {
    for line in [
        "hold --service search --count 20 --seconds 10 --seed 7",
        "duplicate --service review --percent 30 --seconds 9",
        "drop --service ads --next 5",
        "delay --service storefront --ms 700",
        "owner --answer refused",
        "kill --service store-info",
        "edit --service search --id store-001 --row renamed",
    ] {
        let fault = of(line);
        let read = Fault::read(fault.kind(), fault.body().to_string().as_bytes()).unwrap();
        assert_eq!(read, fault, "{line}");
        fault.act().unwrap();
    }
}

#[test]
fn whatever_is_out_of_bounds_or_not_there_is_a_400_that_names_it() {
    let hold = json!({"service": "search", "count": 20, "seconds": 10, "seed": 7});
    let with = |name: &str, value: Value| {
        let mut body = hold.clone();
        body[name] = value;
        body
    };
    let mut lacking = hold.clone();
    lacking.as_object_mut().unwrap().remove("count");
    for (field, body) in [
        ("service", with("service", json!("nobody"))),
        ("service", with("service", json!("store-info"))),
        ("count", with("count", json!(0))),
        ("count", with("count", json!(MAX_COUNT + 1))),
        ("count", with("count", json!(-1))),
        ("count", with("count", json!("20"))),
        ("count", lacking),
        ("seconds", with("seconds", json!(0))),
        ("seconds", with("seconds", json!(MAX_SECONDS + 1))),
        ("seed", with("seed", json!(MAX_SEED + 1))),
        ("colour", with("colour", json!("red"))),
    ] {
        assert_eq!(refused("hold", &body), (400, field.to_owned()), "{body}");
    }
    let some = |percent, next| json!({"service": "ads", "percent": percent, "next": next, "seconds": 1, "seed": 1});
    for (field, body) in
        [("percent", some(0, 0)), ("percent", some(101, 0)), ("next", some(50, MAX_NEXT + 1))]
    {
        for kind in ["drop", "duplicate"] {
            assert_eq!(refused(kind, &body), (400, field.to_owned()), "{body}");
        }
    }
    let delay = |ms| json!({"service": "ads", "ms": ms, "seconds": 1});
    assert_eq!(refused("delay", &delay(0)), (400, "ms".to_owned()));
    assert_eq!(refused("delay", &delay(MAX_DELAY_MS + 1)), (400, "ms".to_owned()));
    let owner = json!({"service": "search", "answer": "503", "seconds": 1});
    assert_eq!(refused("owner", &owner), (400, "service".to_owned()));
    assert_eq!(Fault::read("fire", b"{}").unwrap_err().status.as_u16(), 404);
}

#[test]
fn two_of_a_kind_at_one_place_are_one_and_others_are_not() {
    let replaces =
        |one: &str, other: &str| of(one).act().unwrap().replaces(&of(other).act().unwrap());
    assert!(replaces("hold --service search", "hold --service search --count 3"));
    assert!(replaces("hold --service search", "drop --service search"));
    assert!(replaces("owner", "owner --answer refused"));
    assert!(replaces("edit --service ads --id 1", "edit --service ads --id 1 --row missing"));
    assert!(!replaces("edit --service ads --id 1", "edit --service ads --id 2"));
    assert!(!replaces("hold --service search", "hold --service review"));
    assert!(!replaces("hold --service search", "delay --service search"));
    assert!(!replaces("kill --service search", "delay --service search"));
}

#[test]
fn the_next_ones_come_before_a_share() {
    let which = |line: &str| match of(line) {
        Fault::Drop(some) => some.which().unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(which("drop --service ads --percent 30"), Which::Percent(30));
    assert_eq!(which("drop --service ads --percent 30 --next 4"), Which::Next(4));
}
