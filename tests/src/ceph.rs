//! A real Ceph of one node, from Debian: a monitor, a store in memory, and the gateway that speaks S3.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::s3::free_ports;
use crate::sandbox::{Process, wait_until};

/// A running gateway with the user of [`S3::environment`](crate::S3::environment). The gateway may be stopped and
/// started again.
#[derive(Debug)]
pub struct Ceph {
    folder: PathBuf,
    gateway: Option<Process>,
    _daemons: [Process; 2],
    pub endpoint: String,
}

/// Who may do what in the cluster.
const KEYS: [(&str, &[&str]); 4] = [
    ("mon.", &["mon", "allow *"]),
    ("client.admin", &["mon", "allow *", "osd", "allow *", "mgr", "allow *"]),
    ("osd.0", &["mon", "allow profile osd", "mgr", "allow profile osd", "osd", "allow *"]),
    ("client.gateway", &["mon", "allow rw", "osd", "allow rwx"]),
];

impl Ceph {
    pub async fn start(folder: &Path) -> Self {
        let folder = folder.join("ceph");
        std::fs::create_dir_all(folder.join("osd")).expect("a temporary folder takes folders");
        let ports = free_ports(2);
        let (monitor, gateway) = (ports[0], ports[1]);
        let id = "00000000-0000-4000-8000-000000000001";
        std::fs::write(folder.join("ceph.conf"), config(&folder, id, monitor, gateway)).expect("it takes files");
        let run = |command: &str, arguments: &[&str]| run(&folder, command, arguments);
        run("monmaptool", &["--create", "--fsid", id, "--addv", "a", &format!("[v2:127.0.0.1:{monitor}]"), "monmap"]);
        for (i, (name, caps)) in KEYS.into_iter().enumerate() {
            let mut arguments = vec!["keyring", "--gen-key", "-n", name];
            arguments.extend((i == 0).then_some("--create-keyring"));
            caps.chunks(2).for_each(|cap| arguments.extend(["--cap", cap[0], cap[1]]));
            run("ceph-authtool", &arguments);
        }
        run("ceph-mon", &["--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring"]);
        let mon = daemon(&folder, "ceph-mon", &["-i", "a"]);
        run("ceph", &["osd", "new", id]);
        run("ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", id]);
        let osd = daemon(&folder, "ceph-osd", &["-i", "0"]);
        wait_until("Ceph's store is up", async || output(&folder, "ceph", &["osd", "stat"]).contains("1 up")).await;
        let endpoint = format!("http://127.0.0.1:{gateway}");
        let mut ceph = Self { folder: folder.clone(), gateway: None, _daemons: [mon, osd], endpoint };
        ceph.start_gateway().await;
        let keys = ["--access-key=testkey", "--secret-key=testsecret"];
        run("radosgw-admin", &["user", "create", "--uid=test", "--display-name=Test", keys[0], keys[1]]);
        ceph
    }

    /// Makes a bucket, by curl.
    pub fn make_bucket(&self, name: &str) {
        let url = format!("{}/{name}", self.endpoint);
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "-X", "PUT", "--aws-sigv4", "aws:amz:default:s3"]);
        curl.args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
        let output = curl.args(["--user", "testkey:testsecret", &url]).output().expect("curl starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The names of a bucket's objects that have `part` in them.
    pub fn objects(&self, bucket: &str, part: &str) -> Vec<String> {
        let listed =
            output(&self.folder, "radosgw-admin", &["bucket", "list", "--bucket", bucket, "--max-entries", "10000"]);
        let names = listed.lines().filter_map(|line| line.trim().strip_prefix("\"name\": \""));
        names.filter(|name| name.contains(part)).map(|name| name.trim_end_matches("\",").to_string()).collect()
    }

    /// Waits until the gateway answers.
    pub async fn start_gateway(&mut self) {
        self.gateway = Some(daemon(&self.folder, "radosgw", &["-n", "client.gateway"]));
        let address = self.endpoint.trim_start_matches("http://").to_string();
        let answers = async || tokio::net::TcpStream::connect(&address).await.is_ok();
        wait_until("Ceph's gateway answers", answers).await;
    }

    /// Ends the gateway at once, as a crash does.
    pub fn stop_gateway(&mut self) {
        self.gateway = None;
    }
}

fn config(folder: &Path, id: &str, monitor: u16, gateway: u16) -> String {
    let folder = folder.display();
    format!(
        "[global]
fsid = {id}
mon host = v2:127.0.0.1:{monitor}
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
paxos propose interval = 0.05
[mon.a]
mon data = {folder}/mon
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
[client.gateway]
# Without tcp_nodelay each GET waits for an acknowledgement.
rgw frontends = beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1
rgw data = {folder}
"
    )
}

fn command(folder: &Path, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.current_dir(folder).env("CEPH_CONF", folder.join("ceph.conf")).args(arguments);
    command
}

fn run(folder: &Path, name: &str, arguments: &[&str]) {
    let output = command(folder, name, arguments).output().unwrap_or_else(|e| panic!("{name}, of Debian's ceph: {e}"));
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn output(folder: &Path, name: &str, arguments: &[&str]) -> String {
    let output = command(folder, name, arguments).output().unwrap_or_else(|e| panic!("{name}, of Debian's ceph: {e}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A process that stays in the foreground, so that it ends with the test.
fn daemon(folder: &Path, name: &str, arguments: &[&str]) -> Process {
    Process::start(command(folder, name, arguments).arg("-f"), &folder.join("daemons.log"))
}
