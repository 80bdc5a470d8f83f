//! Where a new service goes, and where the Nudge is that it depends on.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{name::ServiceName, template};
use crate::failure::Failure;

/// What shows that a directory is a checkout of Nudge.
const KIT: &str = "crates/subscriber-kit/Cargo.toml";
/// The table in cargo's manifest that the templates fill.
const DEPENDENCIES_TABLE: &str = "[dependencies]\n";

/// The directory of a new service, and the checkout that it depends on. Both are absolute.
#[derive(Debug)]
pub(crate) struct Place {
    /// Where the service goes. It does not exist yet.
    pub(crate) directory: PathBuf,
    nudge: PathBuf,
}

impl Place {
    /// Looks where to put a service, and where Nudge is, if that is not said.
    pub(crate) fn find(directory: PathBuf, nudge: Option<PathBuf>) -> Result<Self, Failure> {
        let directory = std::path::absolute(&directory).map_err(at(&directory))?;
        if directory.symlink_metadata().is_ok() {
            let there = directory.display();
            return Err(Failure::failed(format!("{there} exists already; nothing was written")));
        }
        let is_checkout = |place: &&Path| place.join(KIT).is_file();
        let nudge = match &nudge {
            Some(named) if is_checkout(&named.as_path()) => named.as_path(),
            Some(named) => {
                let named = named.display();
                return Err(Failure::Usage(format!("--nudge: {named} is no checkout of Nudge")));
            }
            None => {
                let built_from = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
                let mut likely = directory.ancestors().chain([built_from]);
                likely.find(is_checkout).ok_or_else(|| {
                    let gone = "the checkout that this program was built from is gone";
                    Failure::Usage(format!("{gone}: name another with --nudge DIRECTORY"))
                })?
            }
        };
        let nudge = nudge.canonicalize().map_err(at(nudge))?;
        Ok(Self { directory, nudge })
    }

    /// The path of Nudge as the manifest has it: relative if the service is within the checkout, which may then be moved.
    ///
    /// # Errors
    /// If the path is not UTF-8, as a manifest is.
    pub(crate) fn nudge_from_there(&self) -> Result<String, Failure> {
        if let Ok(inside) = self.directory.strip_prefix(&self.nudge) {
            return Ok(vec![".."; inside.components().count()].join("/"));
        }
        let path = self.nudge.to_str().ok_or_else(|| {
            let path = self.nudge.display();
            Failure::failed(format!("the path {path} is not UTF-8, and cannot be in a manifest"))
        })?;
        // Within the quotes of a TOML string.
        Ok(path.replace('\\', "\\\\").replace('"', "\\\""))
    }

    /// Writes the service. As `cargo new` does: the manifest inherits what a workspace around it shares, and the service
    /// becomes a member. Returns whether it has become one.
    ///
    /// # Errors
    /// If cargo refuses or a file cannot be written.
    pub(crate) fn write(
        &self,
        name: &ServiceName,
        files: &[(&str, String)],
    ) -> Result<bool, Failure> {
        let new = ["new", "--quiet", "--lib", "--name", name.as_str(), "--"].map(OsStr::new);
        self.cargo(Path::new("."), new.into_iter().chain([self.directory.as_os_str()]))?;
        for (path, text) in files {
            let write = match *path {
                template::DEPENDENCIES => self.depend_on(text),
                path => self.write_file(path, text),
            };
            write.map_err(at(&self.directory.join(path)))?;
        }
        // As the workspace has it, if it has its own rules. Where rustfmt is not installed, it stays as it is.
        let _ = self.cargo(&self.directory, ["fmt"]);
        let root = ["locate-project", "--workspace", "--message-format", "plain"];
        let root = self.cargo(&self.directory, root)?;
        let root = String::from_utf8_lossy(&root.stdout).trim().to_owned();
        let is_member = Path::new(&root) != self.directory.join("Cargo.toml");
        if !is_member {
            // The versions that Nudge is tested with.
            let lock = "Cargo.lock";
            let copied = fs::copy(self.nudge.join(lock), self.directory.join(lock));
            copied.map_err(at(&self.nudge.join(lock)))?;
        }
        Ok(is_member)
    }

    fn write_file(&self, path: &str, text: &str) -> io::Result<()> {
        let path = self.directory.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)
    }

    /// Adds dependencies to the manifest that cargo has written.
    fn depend_on(&self, dependencies: &str) -> io::Result<()> {
        let path = self.directory.join("Cargo.toml");
        let manifest = fs::read_to_string(&path)?;
        let with_them = format!("{DEPENDENCIES_TABLE}{dependencies}");
        fs::write(&path, manifest.replacen(DEPENDENCIES_TABLE, &with_them, 1))
    }

    fn cargo<A: AsRef<OsStr>>(
        &self,
        directory: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Output, Failure> {
        let program = env::var_os("CARGO").unwrap_or("cargo".into());
        let output = Command::new(program).args(arguments).current_dir(directory).output();
        let output =
            output.map_err(|error| Failure::failed(format!("cannot run cargo: {error}")))?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("error: ");
        Err(Failure::failed(format!("cargo: {}", said.lines().next().unwrap_or("failed"))))
    }
}

/// An error about a file, as one line.
fn at(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::failed(format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What looks like a checkout.
    fn checkout() -> tempfile::TempDir {
        let checkout = tempfile::tempdir().unwrap();
        fs::create_dir_all(checkout.path().join(KIT).parent().unwrap()).unwrap();
        fs::write(checkout.path().join(KIT), "").unwrap();
        checkout
    }

    #[test]
    fn a_service_depends_on_the_checkout_around_it_by_a_path_that_moves_with_both() {
        let checkout = checkout();
        let root = checkout.path().canonicalize().unwrap();
        for (directory, path) in [("names", ".."), ("services/names", "../..")] {
            let place = Place::find(root.join(directory), None).unwrap();
            assert_eq!(place.nudge_from_there().unwrap(), path);
        }
        let elsewhere = tempfile::tempdir().unwrap();
        let place = Place::find(elsewhere.path().join("names"), Some(root.clone())).unwrap();
        assert_eq!(place.nudge_from_there().unwrap(), root.display().to_string());
    }

    #[test]
    fn elsewhere_it_depends_on_the_checkout_that_this_program_was_built_from() {
        let elsewhere = tempfile::tempdir().unwrap();
        let place = Place::find(elsewhere.path().join("names"), None).unwrap();
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
        assert_eq!(place.nudge, here);
    }
}
