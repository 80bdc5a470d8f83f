//! `nudge service NAME …` is the service's own program.

use std::process::{Command, Output};

fn service(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nudge"));
    command.env_remove("DATABASE_URL").arg("service").args(words).output().unwrap()
}

#[test]
fn each_service_reads_its_own_arguments() {
    for name in ["store-info", "search", "review", "storefront", "favourites", "ads"] {
        let document = service(&[name, "openapi"]);
        let document: serde_json::Value = serde_json::from_slice(&document.stdout).unwrap();
        let title = document["info"]["title"].as_str().unwrap();
        assert!(title.ends_with(name), "{title}");
        let help = String::from_utf8(service(&[name, "--help"]).stdout).unwrap();
        assert!(help.contains(&format!("Usage: {name} ")) && help.contains("--bind"), "{help}");
        for (words, code, why) in [
            (
                &[name, "--database-url", "sqlite:x", "--bind", "nowhere"][..],
                2,
                "error: BIND (--bind",
            ),
            (
                &[name, "--database-url", "sqlite:x", "--bind", "0.0.0.0:1"],
                1,
                "error: BIND: 0.0.0.0:1 is not a loopback address",
            ),
            (&[name], 2, "error: DATABASE_URL (--database-url"),
        ] {
            let output = service(words);
            let said = String::from_utf8(output.stderr).unwrap();
            let told = output.status.code() == Some(code) && said.starts_with(why);
            assert!(told, "{words:?}: {said}");
        }
    }
}

#[test]
fn a_service_that_does_not_exist_is_refused() {
    for words in [&["shops"][..], &["--help"]] {
        let output = service(words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("store-info, search, review, storefront, favourites, ads"), "{said}");
    }
}
