use super::*;

#[test]
fn what_the_user_gave_stays_and_the_schema_comes_last() {
    for (given, expected) in [
        ("postgres://a@h:1/d", "postgres://a@h:1/d?options=-c%20search_path%3Dstore_info"),
        (
            "postgresql://a:p%40w@h/d?sslmode=disable&options=-c%20geqo%3Doff",
            "postgresql://a:p%40w@h/d?sslmode=disable&options=-c%20geqo%3Doff\
             &options=-c%20search_path%3Dstore_info",
        ),
        ("postgres:///d?", "postgres:///d?options=-c%20search_path%3Dstore_info"),
    ] {
        assert_eq!(service_url(&parse(given).unwrap(), Service::StoreInfo), expected);
    }
}

#[test]
fn a_url_that_cannot_be_used_is_refused_without_repeating_it() {
    for (url, hint) in [
        ("sqlite:/tmp/hidden.db", "--data-dir"),
        ("mysql://me:hidden@h/d", "must begin with postgres://"),
        ("", "must begin with postgres://"),
        ("postgres://me:hid#den@h:1/d", "percent-encode"),
        ("postgres://me@h/d?password=x&sslpassword=hidden", "parameter sslpassword"),
    ] {
        let refusal = parse(url).unwrap_err();
        assert!(matches!(refusal, Failure::Usage(_)));
        let refusal = refusal.to_string();
        assert!(refusal.starts_with("--database-url (NUDGE_DATABASE_URL): "), "{refusal}");
        assert!(refusal.contains(hint) && !refusal.contains("hid"), "{refusal}");
    }
}

#[test]
fn names_and_texts_cannot_end_early() {
    assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    assert_eq!(literal(r"a'b\"), r"E'a''b\\'");
}
