//! Services that ask for tokens: which route needs what, and what happens with the wrong one.

#[path = "../../runtime/src/tls/authority.rs"]
mod authority;
mod secrets;
mod secured;
mod tls;

use std::{collections::BTreeMap, fmt::Write};

use nudge_runtime::{
    auth::{Scope, policy},
    tls::TlsArgs,
};
use nudge_testbed::{eventually, logs};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use secured::{Secured, Token};

/// The routes that each service tells of: method, path, and the scope that `docs/security.md` says it needs.
fn documented() -> BTreeMap<(String, String), String> {
    let text = std::fs::read_to_string("../../docs/security.md").unwrap();
    let (_, table) = text.split_once("<!-- routes -->\n").expect("the table begins");
    let (table, _) = table.split_once("<!-- end of routes -->").expect("the table ends");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let route = |cells: Vec<&str>| {
        let (method, path) =
            cells[0].trim_matches('`').split_once(' ').expect("a method and a path");
        ((method.to_owned(), path.to_owned()), cells[1].trim_matches('`').to_owned())
    };
    cells.map(route).collect()
}

/// The same from the documents that the services generate from their routers.
async fn generated(secured: &Secured) -> BTreeMap<(String, String), Vec<&'static str>> {
    let mut routes: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let reader = secured.token(&[Scope::Read]);
    for (name, url) in &secured.services {
        let document = secured.get(&format!("{url}/openapi.json"), &reader).await;
        let document: Value = document.json().await.unwrap();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for method in operations.as_object().unwrap().keys() {
                let known = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                routes.entry((known.to_string(), path.clone())).or_default().push(*name);
            }
        }
    }
    routes
}

/// A request to this route, whatever its parameters are.
async fn status(secured: &Secured, method: &str, url: &str, path: &str, token: &str) -> StatusCode {
    let mut filled = String::new();
    for (place, part) in path.split(['{', '}']).enumerate() {
        filled.push_str(if place % 2 == 0 { part } else { "x" });
    }
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = secured.http.request(method.clone(), format!("{url}{filled}"));
    if !matches!(method, Method::GET | Method::DELETE) {
        request = request.header(header::CONTENT_TYPE, "application/json").body("{");
    }
    if !token.is_empty() {
        request = request.bearer_auth(token);
    }
    request.send().await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_of_every_service_answers_only_to_its_scope() {
    let secured = Secured::start().await;
    let (routes, documented) = (generated(&secured).await, documented());
    let mut table = String::new();
    for ((method, path), services) in &routes {
        let known = method.parse().unwrap();
        let scope = policy::needed(&known, path, &["/graphql"]);
        let scope = scope.map_or("none", Scope::name);
        let services = match services.len() {
            count if count == secured.services.len() => "all".to_owned(),
            _ => services.join(", "),
        };
        writeln!(table, "| `{method} {path}` | `{scope}` | {services} |").unwrap();
    }
    let listed: Vec<_> = documented.keys().collect();
    assert_eq!(listed, routes.keys().collect::<Vec<_>>(), "docs/security.md should have:\n{table}");

    for ((method, path), services) in &routes {
        let scope = Scope::named(&documented[&(method.clone(), path.clone())]);
        for (name, url) in secured.services.iter().filter(|(name, _)| services.contains(name)) {
            let ask = async |token: &str| status(&secured, method, url, path, token).await;
            let route = format!("{name} {method} {path}");
            let Some(scope) = scope else {
                assert!(!ask("").await.is_client_error(), "{route} needs no token");
                continue;
            };
            assert_eq!(ask("").await, StatusCode::UNAUTHORIZED, "{route}");
            assert_eq!(ask("a.b.c").await, StatusCode::UNAUTHORIZED, "{route}");
            let others: Vec<_> = Scope::ALL.into_iter().filter(|one| *one != scope).collect();
            assert_eq!(ask(&secured.token(&others)).await, StatusCode::FORBIDDEN, "{route}");
            let answered = ask(&secured.token(&[scope])).await;
            let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
            assert!(!refused.contains(&answered), "{route}: {answered}");
        }
    }
    // What is not there is not told apart from what is.
    let (_, url) = &secured.services[0];
    assert_eq!(status(&secured, "GET", url, "/nowhere", "").await, StatusCode::UNAUTHORIZED);
    let reader = secured.token(&[Scope::Read]);
    assert_eq!(status(&secured, "GET", url, "/nowhere", &reader).await, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_without_a_good_token_keeps_what_it_has_and_catches_up_with_one() {
    let secured = Secured::start().await;
    let writer = secured.token(&[Scope::Write]);
    let written = secured.put_store("42", &json!({"name": "처음 가게"}), &writer).await;
    secured.applied("search", &written).await;
    let search = secured.url("search");
    let found = async |text: &str| {
        let url = format!("{search}/stores?q={text}");
        let answer = secured.get(&url, &secured.token(&[Scope::Read])).await;
        assert_eq!(answer.status(), 200);
        let answer: Value = answer.json().await.unwrap();
        answer["ids"] == json!(["42"])
    };
    let mut known = "처음".to_owned();
    assert!(found(&known).await);
    // Whatever a header claims, its token says who takes of the owner's budget.
    let owner = secured.url("store-info");
    let forged = secured.http.post(format!("{owner}/sync/v1/store/batch-get"));
    let forged = forged.bearer_auth(secured.token(&[Scope::Sync]));
    let forged = forged.header("Nudge-Subscriber", "forged").json(&json!({"ids": ["42"]}));
    assert_eq!(forged.send().await.unwrap().status(), 200);
    let metrics = secured.get(&format!("{owner}/metrics"), &secured.token(&[Scope::Observe])).await;
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("subscriber=\"kim\"") && !metrics.contains("forged"), "{metrics}");
    // A good token without the right to call back, then one of another issuer: no answer of the owner about the store.
    for (wrong, status) in [(Token::without_scopes(), 403), (Token::of_somebody_else(), 401)] {
        secured.give("search", &wrong);
        let name = format!("{status} 가게");
        let before = std::mem::replace(&mut known, name[..3].to_owned());
        let written = secured.put_store("42", &json!({ "name": name }), &writer).await;
        eventually("its status says why it is late", || async {
            let url = format!("{search}/nudge/v1/status");
            let answer = secured.get(&url, &secured.token(&[Scope::Observe])).await;
            let answer: Value = answer.json().await.unwrap();
            let entity = &answer["entities"][0];
            let said = entity["breaker"]["last_error"].as_str().unwrap_or_default().to_owned();
            let all = entity.to_string();
            (said.contains(&status.to_string()) || all.contains(&format!("{status}"))).then_some(())
        })
        .await;
        assert!(!found(&name[..3]).await, "it is not told yet");
        assert!(found(&before).await, "what it had is there");
        let dead = format!("{search}/nudge/v1/dead-letters");
        let dead = secured.get(&dead, &secured.token(&[Scope::Observe])).await;
        let dead: Value = dead.json().await.unwrap();
        assert_eq!(dead["items"], json!([]), "it is nobody's fault but the whole owner's");
        secured.give("search", &Token::of(&[Scope::Sync]));
        secured.applied("search", &written).await;
        assert!(found(&name[..3]).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restricted_token_edits_only_the_stores_that_it_names() {
    let secured = Secured::start().await;
    let writer = secured.token(&[Scope::Write]);
    for id in ["42", "43"] {
        secured.put_store(id, &json!({"name": "가게"}), &writer).await;
    }
    let owner = secured.restricted(&[Scope::Read, Scope::Write, Scope::Admin], &["stores/42"]);
    let url = secured.url("store-info");
    let ask = async |method: Method, path: &str, body: Value| {
        let request = secured.http.request(method, format!("{url}{path}")).bearer_auth(&owner);
        request.json(&body).send().await.unwrap().status().as_u16()
    };
    let renamed = json!({"name": "새 가게"});
    assert_eq!(ask(Method::PUT, "/stores/42", renamed.clone()).await, 200);
    assert_eq!(ask(Method::PUT, "/stores/%34%32", renamed.clone()).await, 200);
    for (method, path) in [
        (Method::PUT, "/stores/43"),
        (Method::DELETE, "/stores/43"),
        (Method::PATCH, "/stores/43"),
        (Method::PUT, "/stores/44"),
        (Method::POST, "/stores"),
        (Method::POST, "/stores/import"),
        (Method::POST, "/nudge/v1/tombstones/store/never-existed"),
    ] {
        assert_eq!(ask(method.clone(), path, renamed.clone()).await, 403, "{method} {path}");
    }
    let reader = secured.token(&[Scope::Read]);
    let stores = secured.get(&format!("{url}/stores"), &reader).await;
    let stores: Value = stores.json().await.unwrap();
    let named: Vec<_> =
        stores["items"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(named, [&json!("새 가게"), &json!("가게")], "{stores}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_makes_tokens_and_sends_them_and_the_log_says_who_changed_what() {
    logs();
    let store_info = secured::Process::start("store-info", "debug").await;
    let editor = store_info.token("kim", &["--scope", "read,write"]).await;
    let put = ["store", "put", "42", "--name", "가게"];
    let refused = store_info.nudge(&put, None).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("--token-file"), "{said}");
    let put = store_info.nudge(&put, Some(&editor)).await;
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let removed = store_info.nudge(&["store", "rm", "42"], Some(&editor)).await;
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));

    let owner = store_info.url();
    let conformance = ["conformance", "--entity", "store", "--owner", &owner];
    let refused = store_info.nudge(&conformance, Some(&editor)).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("answered with 403: give a token"), "{said}");
    let subscriber = store_info.token("search", &["--scope", "sync"]).await;
    let tried = store_info.nudge(&conformance, Some(&subscriber)).await;
    assert!(tried.status.success(), "{}", String::from_utf8_lossy(&tried.stdout));

    let token = std::fs::read_to_string(&editor).unwrap();
    let kim = |method: &str, status| ("kim".into(), method.into(), "/stores/42".into(), status);
    assert_eq!(store_info.audit(), [kim("PUT", 201), kim("DELETE", 204)]);
    assert!(!store_info.log().contains(token.trim()), "no secret is logged");
    // The key is the issuer's alone.
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &store_info.key().metadata().unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

/// Each of its routes with the scope `admin`, whatever else is logged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_does_is_one_line_of_the_audit_log() {
    logs();
    let search = secured::Process::start("search", "off").await;
    let operator = search.token("kim", &["--scope", "read,observe,admin"]).await;
    let (token, http) = (std::fs::read_to_string(operator).unwrap(), reqwest::Client::new());
    let ask = async |method: &Method, path: &str| {
        let request = http.request(method.clone(), format!("{}{path}", search.url()));
        request.bearer_auth(token.trim()).json(&json!({})).send().await.unwrap()
    };
    let document: Value = ask(&Method::GET, "/openapi.json").await.json().await.unwrap();
    let mut done = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            if method == Method::GET && path.ends_with("/events") {
                continue;
            }
            let filled = path.replace("{entity}", "store").replace("{id}", "42");
            let status = ask(&method, &filled).await.status().as_u16();
            if policy::needed(&method, path, &[]) == Some(Scope::Admin) {
                done.push(("kim".to_owned(), method.to_string(), filled, status));
            }
        }
    }
    assert!(done.len() >= 7 && done.iter().any(|(.., status)| *status == 200), "{done:?}");
    // A line is written once its answer has been sent.
    let mut audit = eventually("there is a line for each", || async {
        Some(search.audit()).filter(|audit| audit.len() >= done.len())
    })
    .await;
    audit.sort();
    done.sort();
    assert_eq!(audit, done);
}
