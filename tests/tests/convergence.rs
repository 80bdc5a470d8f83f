//! One owner, one subscriber, a real broker between them: the promise itself.

use nudge_tests::{Copy, Nats, Owner};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_followed_through_create_update_delete_and_re_creation() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.wait(&owner.put("42", json!({"name": "가"})).await).await;
    assert_eq!(copy.body("42").await, Some(json!({"name": "가"})));
    copy.wait(&owner.put("42", json!({"name": "나"})).await).await;
    assert_eq!(copy.body("42").await, Some(json!({"name": "나"})));
    copy.wait(&owner.delete("42").await).await;
    assert_eq!(copy.body("42").await, None);
    copy.wait(&owner.put("42", json!({"name": "다"})).await).await;
    assert_eq!(copy.body("42").await, Some(json!({"name": "다"})));
    copy.quiet().await;
    copy.converged(&owner).await;
}
