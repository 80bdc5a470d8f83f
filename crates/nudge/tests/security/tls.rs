//! Services that speak TLS, with certificates on both sides.

use nudge_runtime::auth::Scope;
use serde_json::{Value, json};

use super::{authority::Authority, secured::Secured};

/// Owner, subscribers, and those that ask each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_services_follow_and_ask_each_other_in_tls() {
    let secured = Secured::start_with(Some(Authority::new())).await;
    let writer = secured.token(&[Scope::Write]);
    let written = secured.put_store("42", &json!({"name": "처음 가게"}), &writer).await;
    for service in ["search", "review", "favourites", "ads", "storefront"] {
        secured.applied(service, &written).await;
    }
    let page = format!("{}/stores?source=search&q=처음", secured.url("storefront"));
    let page = secured.get(&page, &secured.token(&[Scope::Read])).await;
    let page: Value = page.json().await.unwrap();
    assert_eq!(page["items"][0]["name"], "처음 가게", "{page}");
    assert_eq!(page["fallback"], Value::Null, "{page}");
}
