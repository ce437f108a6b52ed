//! A lake and a warehouse in an object store: a real S3 server, SeaweedFS from PyPI.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use covey_tests::{Process, Sandbox, cell, cells, covey_command, project, wait_until};

use crate::create_model;

const CREDENTIALS: &str = r#"{"identities": [{"name": "covey", "credentials": [{"accessKey": "testkey",
    "secretKey": "testsecret"}], "actions": ["Admin", "Read", "Write", "List"]}]}"#;

/// A running S3 server with the bucket `lake`.
struct S3 {
    _server: Process,
    weed: PathBuf,
    endpoint: String,
    filer: String,
}

impl S3 {
    async fn start(folder: &Path) -> Self {
        let python = std::env::var("COVEY_TEST_PYTHON").expect("tests/run names a Python with the requirements");
        let weed = Path::new(&python).with_file_name("weed");
        let config = folder.join("s3.json");
        std::fs::write(&config, CREDENTIALS).unwrap();
        let names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port"];
        let more = ["filer.port.grpc", "s3.port", "s3.port.grpc", "admin.port", "admin.port.grpc"];
        let ports: Vec<(&str, u16)> = names.into_iter().chain(more).zip(free_ports(10)).collect();
        let port = |name: &str| ports.iter().find(|(other, _)| *other == name).unwrap().1;
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
        std::fs::create_dir_all(folder.join("s3")).unwrap();
        let log = folder.join("s3.log");
        let server = Process::start(&mut command, &log);
        let ready = async || std::fs::read_to_string(&log).unwrap_or_default().contains("Press Ctrl+C");
        wait_until("the S3 server starts", ready).await;
        Self { _server: server, weed, endpoint, filer }
    }

    /// Puts a folder into the bucket, by the server's own tool.
    fn upload(&self, folder: &Path) {
        let mut command = Command::new(&self.weed);
        command.arg("filer.copy").arg(folder).arg(format!("{}/buckets/lake/", self.filer));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Ports that are free while all are looked for.
fn free_ports(n: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..n).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// Goal: lake and warehouse may be in an object store. Method: collect to it, query it, fit on all executors from it,
/// give the model back bit for bit as from disk, replace and drop it.
#[tokio::test]
async fn lake_and_warehouse_in_s3() {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await;
    s3.upload(&project().join("samples/processes"));
    let environment = [
        ("AWS_ENDPOINT_URL", s3.endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "testkey"),
        ("AWS_SECRET_ACCESS_KEY", "testsecret"),
        ("AWS_REGION", "us-east-1"),
    ];
    let sandbox = Sandbox::start_at(folder, "s3://lake/warehouse", &environment, 2, 1).await;
    let table = |name: &str, at: &str| {
        format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{at}'")
    };
    sandbox.sql(&table("processes", "s3://lake/processes")).await;
    sandbox.sql(&table("local", &project().join("samples/processes").to_string_lossy())).await;
    let same = "SELECT (SELECT count(*) FROM processes WHERE day = 3) = (SELECT count(*) FROM local WHERE day = 3)";
    assert_eq!(cell(&sandbox.sql(same).await), "true");

    let digest = async |statement: &str| cells(&sandbox.sql(statement).await)[0].last().cloned();
    let from_s3 = digest(&create_model("m", ", strategy 'distributed'")).await;
    let from_disk = digest(&create_model("d", "").replace("processes", "local")).await;
    assert_eq!(from_s3, from_disk);
    assert_eq!(cell(&sandbox.sql("SELECT min(executors) FROM model_iterations('m')").await), "2");
    sandbox.sql("ALTER MODEL m SET LABEL 'named' FOR CLUSTER 1").await;
    assert_eq!(cells(&sandbox.sql("SHOW MODELS").await).len(), 2);
    assert!(sandbox.error(&create_model("m", "")).await.contains("exists"));
    sandbox.sql(&create_model("m", "").replacen("CREATE", "CREATE OR REPLACE", 1)).await;
    assert_eq!(cell(&sandbox.sql("SELECT predict('m', 'sshd') = predict('d', 'sshd')").await), "true");
    sandbox.sql("DROP MODEL m").await;
    assert_eq!(cells(&sandbox.sql("SHOW MODELS").await).len(), 1);

    let mut collect = covey_command(&["collect", "--to", "s3://lake/collected"]);
    let output = collect.envs(environment).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    sandbox.sql(&table("collected", "s3://lake/collected")).await;
    assert_eq!(cell(&sandbox.sql("SELECT count(*) > 0 FROM collected").await), "true");
    let nowhere = sandbox.error(&table("nowhere", "s3://no-such-bucket/lake")).await;
    assert!(nowhere.contains("no-such-bucket"), "{nowhere}");
}
