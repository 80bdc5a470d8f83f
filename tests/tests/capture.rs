//! Changes are recorded, whatever program makes them: triggers on a root table and its children.
//!
//! | module | what it tests |
//! |---|---|
//! | `bulk` | a hundred thousand rows in one statement, followed to the end |
//! | `changes` | what each statement records |
//! | `columns` | columns that are added, dropped and retyped |
//! | `random` | no statement of any kind goes unnoticed |
//! | `installing` | checking, creating, repairing and removing the triggers |
//! | `once` | what only one of the databases has: `REPLACE`, `TRUNCATE`, roles |
//! | `recording` | everything is recorded once after an installation |
//! | `shells` | the databases' own tools, and subscribers that follow |
//! | `writers` | many writers at once |

mod bulk;
mod changes;
mod columns;
mod installing;
mod lost;
mod once;
mod random;
mod recording;
mod shells;
mod support;
mod writers;
