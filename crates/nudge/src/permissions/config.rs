//! The configuration for nats-server, as text. Pure.

use std::fmt::Write;

use super::{
    GUEST, OPERATOR, Services,
    grants::{Denials, Grants},
};

const HEAD: &str = "\
# Who may do what at NATS: docs/security.md. Written by `nudge nats-config`, which would undo what you change here.
# In the server's configuration: include \"nats.conf\"
";

/// The whole text. `key` gives the public key of a user.
pub(super) fn text(services: &Services, key: impl Fn(&str) -> String) -> String {
    let mut text = HEAD.to_owned();
    text += "authorization {\n  users = [\n";
    for (name, roles) in &services.services {
        user(&mut text, name, &key(name), &Grants::of_service(name, roles));
    }
    user(&mut text, OPERATOR, &key(OPERATOR), &Grants::of_operator());
    if services.guests {
        let Denials(Grants { publish, subscribe }) = Denials::beside(services);
        write(&mut text, "    # Whoever logs in without credentials.\n    {\n");
        write(
            &mut text,
            &format!("      user: {GUEST}, password: {GUEST}\n      permissions {{\n"),
        );
        for (what, denied) in [("publish", publish), ("subscribe", subscribe)] {
            let denied = list(&denied, "          ");
            write(
                &mut text,
                &format!("        {what} {{ allow: \">\", deny: [\n{denied}        ] }}\n"),
            );
        }
        write(&mut text, "      }\n    }\n");
    }
    text += "  ]\n}\n";
    if services.guests {
        text += &format!("no_auth_user: {GUEST}\n");
    }
    text
}

fn user(text: &mut String, name: &str, key: &str, Grants { publish, subscribe }: &Grants) {
    write(text, &format!("    # {name}\n    {{\n      nkey: {key}\n      permissions {{\n"));
    for (what, allowed) in [("publish", publish), ("subscribe", subscribe)] {
        let allowed = list(allowed, "          ");
        write(text, &format!("        {what} {{ allow: [\n{allowed}        ] }}\n"));
    }
    write(text, "      }\n    }\n");
}

fn list(subjects: &[String], indent: &str) -> String {
    subjects.iter().fold(String::new(), |mut text, subject| {
        write(&mut text, &format!("{indent}\"{subject}\"\n"));
        text
    })
}

fn write(text: &mut String, part: &str) {
    text.write_str(part).expect("a text can always grow");
}
