//! The service without a broker and without an owner: its endpoints, and its read model in the simulation.

use my_service::{http, read_model, service};

use nudge_simulation::{Mirrored, Profile, explore};
use nudge_subscriber_kit::{serde_json::json, testing, tokio};

#[tokio::test]
async fn an_answer_is_what_the_owner_said_last() {
    let model = testing::ReadModel::new(read_model::table()).await;
    let get = async || {
        let routes = http::routes().with_state(model.database.clone());
        testing::get(routes, "/my-entity/42").await
    };
    assert_eq!(get().await.status, 404);
    model.put("42", json!({"name": "first"})).await;
    model.put("42", json!({"name": "second"})).await;
    assert_eq!(get().await.json(), json!({"name": "second"}));
    model.delete("42").await;
    assert_eq!(get().await.status, 404);
}

#[test]
fn the_endpoints_are_in_the_openapi_document() {
    assert!(service().document().contains("\"/my-entity/{id}\""));
}

/// Reordered, lost and repeated messages, crashes at every step, two replicas. A failure prints what happened, and the
/// command that repeats it. Make states here that have all the fields that you keep.
#[test]
fn the_read_model_is_right_whatever_happens_to_messages_and_programs() {
    for profile in Profile::ALL {
        let items = Mirrored::new("my-entity", read_model::table, |random| {
            json!({"name": random.one_of(&["first", "second", "it's"])})
        });
        explore(items, profile, 0..5);
    }
}
