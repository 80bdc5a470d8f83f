//! Random statements of every kind: every change that a subscriber could see is recorded.

use nudge_runtime::database::Kind;
use nudge_tests::Random;

use crate::capture::support::Shops;

const STATEMENTS: usize = 400;

fn key(random: &mut Random) -> String {
    format!("s{}", random.below(6))
}

/// A statement that may do anything, or nothing; some are refused.
fn statement(random: &mut Random, kind: Kind) -> String {
    let (a, b, n) = (key(random), key(random), random.below(3));
    let (word, number) = (random.below(3), random.below(8));
    let choice = random.below(if kind == Kind::Sqlite { 22 } else { 20 });
    match choice {
        0..=2 => format!("INSERT INTO shop VALUES ('{a}', 'name {n}', 'code {number}')"),
        3 => format!("UPDATE shop SET name = 'name {n}' WHERE id = '{a}'"),
        4 => format!("UPDATE shop SET name = 'name {n}' WHERE id <= '{a}'"),
        5 => format!("UPDATE shop SET id = '{b}' WHERE id = '{a}'"),
        6 => format!("DELETE FROM shop WHERE id = '{a}'"),
        7 => format!("DELETE FROM shop WHERE name = 'name {n}'"),
        8 | 9 => format!("INSERT INTO menu VALUES ('{a}', {n}, 'menu {word}')"),
        10 => format!("UPDATE menu SET name = 'menu {word}' WHERE shop_id = '{a}'"),
        11 => format!("UPDATE menu SET shop_id = '{b}' WHERE shop_id = '{a}' AND position = {n}"),
        12 => format!("DELETE FROM menu WHERE position = {n}"),
        13 | 14 => format!("INSERT INTO tag VALUES ({number}, '{a}', 'tag {word}')"),
        15 => {
            format!("UPDATE tag SET word = 'tag {word}', shop_id = '{b}' WHERE number = {number}")
        }
        16 => format!("UPDATE tag SET shop_id = NULL WHERE number < {n}"),
        17 => format!("DELETE FROM tag WHERE number = {number}"),
        18 => format!(
            "INSERT INTO shop VALUES ('{a}', 'name {n}', NULL) \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name"
        ),
        19 => format!(
            "INSERT INTO tag VALUES ({number}, '{a}', 'tag {word}') \
             ON CONFLICT (number) DO UPDATE SET shop_id = excluded.shop_id"
        ),
        20 => format!("INSERT OR REPLACE INTO shop VALUES ('{a}', 'name {n}', 'code {number}')"),
        _ => match n {
            0 => format!("REPLACE INTO tag VALUES ({number}, '{a}', 'tag {word}')"),
            1 => format!("UPDATE OR REPLACE shop SET code = 'code {number}' WHERE id = '{a}'"),
            _ => format!("INSERT OR IGNORE INTO shop VALUES ('{a}', 'name {n}', 'code {number}')"),
        },
    }
}

#[tokio::test]
async fn no_statement_goes_unnoticed() {
    for seed in [1, 20_261_121] {
        let shops = Shops::new().await;
        let mut random = Random::new(seed);
        let (mut noticed, mut refused) = (0, 0);
        for n in 0..STATEMENTS {
            let sql = statement(&mut random, shops.db.kind());
            let (before, log) = (shops.states().await, shops.log().await);
            let mut tx = shops.db.begin().await.unwrap();
            let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).execute(&mut *tx).await;
            match done {
                Ok(_) => tx.commit().await.unwrap(),
                Err(_) => {
                    refused += 1;
                    tx.rollback().await.unwrap();
                }
            }
            let (after, risen) = (shops.states().await, shops.risen(&log).await);
            let ids = before.keys().chain(after.keys());
            for id in ids.filter(|id| before.get(*id) != after.get(*id)) {
                noticed += 1;
                let recorded = risen.iter().any(|(risen, _)| risen == id);
                assert!(recorded, "seed {seed}, statement {n}: {id} changed unseen by {sql}");
            }
            // Only statements that replace rows may record more than the changes.
            if sql.starts_with("UPDATE ")
                && !sql.contains("REPLACE")
                && !sql.contains("SET shop_id")
            {
                let unchanged = |id: &&(String, String)| before.get(&id.0) == after.get(&id.0);
                let idle: Vec<_> = risen
                    .iter()
                    .filter(unchanged)
                    .filter(|(id, _)| before.contains_key(id))
                    .collect();
                assert!(idle.is_empty(), "seed {seed}, statement {n}: {idle:?} by {sql}");
            }
        }
        assert!(noticed > STATEMENTS / 4, "{noticed} changes");
        assert!((1..STATEMENTS / 2).contains(&refused), "{refused} refused");
    }
}
