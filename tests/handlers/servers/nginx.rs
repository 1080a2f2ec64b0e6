//! An nginx with a site that includes what maintenance mode writes, and one that has a cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rustix::process::Signal;
use tempfile::TempDir;

use super::Process;
use crate::common::until;

const CONFIG: &str = r#"
user root;
daemon off;
pid DIR/nginx.pid;
error_log DIR/error.log notice;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path DIR/tmp-body;
    proxy_temp_path DIR/tmp-proxy;
    fastcgi_temp_path DIR/tmp-fastcgi;
    uwsgi_temp_path DIR/tmp-uwsgi;
    scgi_temp_path DIR/tmp-scgi;
    proxy_cache_path DIR/cache levels=1:2 keys_zone=pages:1m;
    include DIR/actiond/current/http.conf*;
    server {
        listen unix:DIR/site.sock;
        include DIR/actiond/current/server.conf*;
        location / { return 200 "the site\n"; }
    }
    server {
        listen unix:DIR/cached.sock;
        location / {
            proxy_pass http://unix:DIR/origin.sock:/;
            proxy_cache pages;
            proxy_cache_valid 200 1h;
            add_header X-Cache $upstream_cache_status always;
        }
    }
    server {
        listen unix:DIR/origin.sock;
        location / { return 200 "the origin\n"; }
    }
}
"#;

pub struct Nginx {
    dir: TempDir,
    server: Mutex<Option<Process>>,
}

impl Nginx {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("actiond-nginx.").tempdir().expect("a directory");
        let config = CONFIG.replace("DIR", &dir.path().display().to_string());
        fs::write(dir.path().join("nginx.conf"), config).expect("nginx.conf");
        fs::create_dir(dir.path().join("actiond")).expect("a directory");
        let nginx = Self { dir, server: Mutex::new(None) };
        nginx.bring_up();
        nginx
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What tests its configuration.
    pub fn test(&self) -> [String; 4] {
        let config = self.path("nginx.conf").display().to_string();
        ["/usr/sbin/nginx".to_owned(), "-t".to_owned(), "-c".to_owned(), config]
    }

    pub fn bring_up(&self) {
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-c").arg(self.path("nginx.conf"));
        *self.server.lock().expect("the server") = Some(Process::start(&mut command, &self.path("log")));
        until("nginx", || (self.get("site.sock", "/").0 != 0).then_some(()));
    }

    /// At once, with its workers, which would go on without their master.
    pub fn take_down(&self) {
        if let Some(mut server) = self.server.lock().expect("the server").take() {
            server.end(Signal::TERM);
        }
    }

    /// Returns when all old workers are gone.
    pub fn reload(&self) {
        let pid: i32 =
            fs::read_to_string(self.path("nginx.pid")).expect("a pid").trim().parse().expect("a pid");
        let children = || {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
            children.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let old = children();
        let master = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(master, Signal::HUP).expect("a reload");
        until("the end of nginx's old workers", || {
            let now = children();
            (!now.is_empty() && old.iter().all(|worker| !now.contains(worker))).then_some(())
        });
    }

    /// How often it was told to reload.
    pub fn reloads(&self) -> usize {
        log(&self.path("error.log")).matches("signal 1 (SIGHUP) received").count()
    }

    /// Status, and the whole answer; 0 if there is none.
    pub fn get(&self, socket: &str, path: &str) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-i", "--max-time", "10", "--unix-socket"]).arg(self.path(socket));
        let output = curl.arg(format!("http://localhost{path}")).output().expect("curl");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, answer)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.take_down();
    }
}

fn log(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
