//! Faults imitated by triggers on the tables that the code writes.

use nudge_runtime::Database;

use super::Mutant;

/// A table of the kit or the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// The guard's, in a read model.
    Applied,
    /// In a read model.
    DeadLetter,
    /// The position in each entity's stream, in a read model.
    Intake,
    /// The owner's.
    ChangeLog,
}

/// Due at no time that a run reaches.
const NEVER: &str = "9000000000000000";

/// Makes the triggers on this table that commit the fault, if it is one of this table.
pub(crate) async fn plant(db: &Database, table: Table, mutant: Option<Mutant>) {
    let Some(mutant) = mutant else { return };
    for sql in triggers(table, mutant) {
        let made = db.write(sqlx::query(sqlx::AssertSqlSafe(sql))).await;
        made.expect("the trigger is made");
    }
}

fn triggers(table: Table, mutant: Mutant) -> Vec<String> {
    const SAME: &str = "entity = NEW.entity AND id = NEW.id";
    let let_in = |versions: &str| {
        vec![format!(
            "CREATE TRIGGER wrong BEFORE INSERT ON nudge_applied BEGIN \
             DELETE FROM nudge_applied WHERE {SAME} AND version {versions} NEW.version; END"
        )]
    };
    let ignored = |what: &str| {
        vec![format!("CREATE TRIGGER wrong BEFORE {what} BEGIN SELECT RAISE(IGNORE); END")]
    };
    let dropped_once_deleted = |table: &str| {
        let drop = |on: &str| {
            format!(
                "CREATE TRIGGER wrong_{on} AFTER {on} ON {table} WHEN NEW.deleted = 1 BEGIN \
                 DELETE FROM {table} WHERE {SAME}; END"
            )
        };
        vec![drop("INSERT"), drop("UPDATE")]
    };
    match (table, mutant) {
        (Table::Applied, Mutant::NoGuard) => let_in(">="),
        (Table::Applied, Mutant::GuardNotStrict) => let_in("="),
        // What is let in is decided in `apply`, which puts back what stood there.
        (Table::Applied, Mutant::GuardInMemory) => vec![
            "CREATE TABLE wrong_before AS SELECT * FROM nudge_applied".to_owned(),
            format!(
                "CREATE TRIGGER wrong BEFORE INSERT ON nudge_applied BEGIN \
                 DELETE FROM wrong_before WHERE {SAME}; \
                 INSERT INTO wrong_before SELECT * FROM nudge_applied WHERE {SAME}; \
                 DELETE FROM nudge_applied WHERE {SAME} AND version >= NEW.version; END"
            ),
        ],
        (Table::Applied, Mutant::DeleteIgnored) => {
            ignored("INSERT ON nudge_applied WHEN NEW.deleted = 1")
        }
        (Table::Applied, Mutant::TombstoneForgotten) => dropped_once_deleted("nudge_applied"),
        (Table::Applied, Mutant::GuardByIdAlone) => ignored(
            "INSERT ON nudge_applied WHEN EXISTS (SELECT 1 FROM nudge_applied \
             WHERE id = NEW.id AND entity <> NEW.entity AND version >= NEW.version)",
        ),
        (Table::Applied, Mutant::DeadLetterOfAnotherCloses) => {
            let close = |on: &str| {
                format!(
                    "CREATE TRIGGER wrong_{on} AFTER {on} ON nudge_applied BEGIN \
                     DELETE FROM nudge_dead_letter WHERE id = NEW.id; END"
                )
            };
            vec![close("INSERT"), close("UPDATE")]
        }
        (Table::Intake, Mutant::PositionOfAnotherEntity) => vec![
            "CREATE TRIGGER wrong AFTER UPDATE OF position ON nudge_intake BEGIN \
             UPDATE nudge_intake SET position = max(position, NEW.position) \
             WHERE entity <> NEW.entity; END"
                .to_owned(),
        ],
        (Table::ChangeLog, Mutant::TombstoneDroppedFromLog) => {
            dropped_once_deleted("nudge_change_log")
        }
        (Table::DeadLetter, Mutant::ParkedAndForgotten) => ignored("INSERT ON nudge_dead_letter"),
        (Table::DeadLetter, Mutant::DeadLetterNeverCloses) => {
            ignored("DELETE ON nudge_dead_letter")
        }
        (Table::DeadLetter, Mutant::NoReentry) => {
            let put_off = |on: &str| {
                format!(
                    "CREATE TRIGGER wrong_{on} AFTER {on} ON nudge_dead_letter \
                     WHEN NEW.next_at < {NEVER} BEGIN \
                     UPDATE nudge_dead_letter SET next_at = {NEVER} WHERE {SAME}; END"
                )
            };
            vec![put_off("INSERT"), put_off("UPDATE")]
        }
        _ => Vec::new(),
    }
}
