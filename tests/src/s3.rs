//! A real S3 server, SeaweedFS from PyPI.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sandbox::{Process, wait_until};

const CREDENTIALS: &str = r#"{"identities": [{"name": "covey", "credentials": [{"accessKey": "testkey",
    "secretKey": "testsecret"}], "actions": ["Admin", "Read", "Write", "List"]}]}"#;

/// A running S3 server with the bucket `lake`.
#[derive(Debug)]
pub struct S3 {
    _server: Process,
    weed: PathBuf,
    pub endpoint: String,
    filer: String,
}

impl S3 {
    pub async fn start(folder: &Path) -> Self {
        let python = std::env::var("COVEY_TEST_PYTHON").expect("tests/run names a Python with the requirements");
        let weed = Path::new(&python).with_file_name("weed");
        let config = folder.join("s3.json");
        std::fs::write(&config, CREDENTIALS).expect("a temporary folder takes files");
        let names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port"];
        let more = ["filer.port.grpc", "s3.port", "s3.port.grpc", "admin.port", "admin.port.grpc"];
        let ports: Vec<(&str, u16)> = names.into_iter().chain(more).zip(free_ports(10)).collect();
        let port = |name: &str| ports.iter().find(|(other, _)| *other == name).expect("every port has a name").1;
        let endpoint = format!("http://127.0.0.1:{}", port("s3.port"));
        // The server's tools take both ports of the filer in one address.
        let filer = format!("http://127.0.0.1:{}.{}", port("filer.port"), port("filer.port.grpc"));
        let mut command = Command::new(&weed);
        command.args([
            "mini",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-bucket=lake",
            "-webdav=false",
            "-admin.ui=false",
        ]);
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
        command.arg(format!("-dir={}", folder.join("s3").display()));
        command.arg(format!("-s3.config={}", config.display()));
        command.args(ports.iter().map(|(name, port)| format!("-{name}={port}")));
        std::fs::create_dir_all(folder.join("s3")).expect("a temporary folder takes folders");
        let log = folder.join("s3.log");
        let server = Process::start(&mut command, &log);
        let ready = async || std::fs::read_to_string(&log).unwrap_or_default().contains("Press Ctrl+C");
        wait_until("the S3 server starts", ready).await;
        Self { _server: server, weed, endpoint, filer }
    }

    /// Variables for processes that use the server at `endpoint`.
    pub fn environment(endpoint: &str) -> [(&str, &str); 4] {
        [
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_ACCESS_KEY_ID", "testkey"),
            ("AWS_SECRET_ACCESS_KEY", "testsecret"),
            ("AWS_REGION", "us-east-1"),
        ]
    }

    /// Puts a folder into the bucket, by the server's own tool.
    pub fn upload(&self, folder: &Path) {
        let mut command = Command::new(&self.weed);
        command.arg("filer.copy").arg(folder).arg(format!("{}/buckets/lake/", self.filer));
        let output = command.output().expect("weed starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Ports that are free while all are looked for.
pub fn free_ports(n: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> =
        (0..n).map(|_| TcpListener::bind("127.0.0.1:0").expect("there are free ports")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("a bound socket has an address").port()).collect()
}
