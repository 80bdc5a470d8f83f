//! The console page in a real browser, in front of a real demo.

mod chromium;
mod page;
