//! The repository of a small application, each commit of which is known file by file.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::servers::output;

type Files = BTreeMap<String, String>;

pub struct Origin {
    dir: PathBuf,
    commits: Mutex<BTreeMap<String, Files>>,
}

impl Origin {
    pub fn new(dir: PathBuf) -> Self {
        output(Command::new("git").args(["init", "--quiet", "--initial-branch=main"]).arg(&dir));
        Self { dir, commits: Mutex::default() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn git(&self, args: &[&str]) -> String {
        let who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"];
        output(Command::new("git").arg("-C").arg(&self.dir).args(who).args(args))
    }

    /// A new commit on a branch, with which these instances are not healthy; its id.
    pub fn commit(&self, branch: &str, sick: &[&str]) -> String {
        self.git(&["checkout", "--quiet", "-B", branch]);
        let number = self.commits.lock().expect("all").len();
        let mut files: Files =
            (0..20).map(|at| (format!("data/{at}"), format!("{at} of {number}\n").repeat(200))).collect();
        files.insert("branch".to_owned(), branch.to_owned());
        files.insert("number".to_owned(), number.to_string());
        files.insert("config/settings".to_owned(), "own".to_owned());
        files.insert("sick".to_owned(), sick.join("\n"));
        for (path, text) in &files {
            let path = self.dir.join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", branch]);
        let hash = self.git(&["rev-parse", "HEAD"]);
        self.commits.lock().expect("all").insert(hash.clone(), files);
        hash
    }

    /// The first release, as somebody made it by hand, in the directory of the application.
    pub fn first_release(&self, app: &Path) -> String {
        let hash = self.commit("first", &[]);
        fs::create_dir_all(app.join("releases")).expect("a directory");
        let release = app.join("releases").join(&hash);
        for path in self.commits.lock().expect("all")[&hash].keys() {
            let to = release.join(path);
            fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
            fs::copy(self.dir.join(path), to).expect("a file");
        }
        symlink(format!("releases/{hash}"), app.join("current")).expect("a link");
        hash
    }

    /// A file of a commit.
    pub fn file(&self, hash: &str, path: &str) -> String {
        self.commits.lock().expect("all").get(hash).expect("a commit").get(path).expect("a file").clone()
    }

    /// What keeps a release from being all of its commit, and nothing else.
    pub fn fault(&self, release: &Path) -> Option<String> {
        let hash = release.file_name()?.to_str()?;
        let commits = self.commits.lock().expect("all");
        let Some(files) = commits.get(hash) else { return Some(format!("{hash} is no commit")) };
        for (path, text) in files {
            match fs::read_to_string(release.join(path)) {
                Ok(found) if found == *text => {}
                Ok(_) => return Some(format!("{hash}: {path} has something else in it")),
                Err(error) => return Some(format!("{hash}: {path}: {error}")),
            }
        }
        let found = count(release);
        (found != files.len()).then(|| format!("{hash}: {found} files, not {}", files.len()))
    }
}

/// Files below a directory; links are none.
fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => count(&entry.path()),
        Ok(kind) => usize::from(kind.is_file()),
        Err(_) => 0,
    };
    entries.map(of).sum()
}
