//! How a store is made from its URL and the settings of the process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::error::Result;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use object_store::http::HttpBuilder;
use object_store::multipart::MultipartStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::Remote;
use super::told::{Told, ToldUploads};
use crate::settings::{Settings, StoreSettings};
use crate::user_err;

/// How long a request is tried again that a store does not answer, or answers with an error of its own (5xx), where the
/// settings do not say.
const RETRY_SECONDS_DEFAULT: u64 = 30;

/// Pauses between tries grow from the first to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);

const CONNECT_SECONDS_MAX: u64 = 5;

/// The time of an answer, its body included. What is read for longer is [asked for again](super::resumed) from there.
const ANSWER_SECONDS_MAX: u64 = 30;

fn retry_seconds(settings: Option<&StoreSettings>) -> u64 {
    settings.and_then(|settings| settings.retry_seconds).unwrap_or(RETRY_SECONDS_DEFAULT)
}

fn retries(settings: Option<&StoreSettings>) -> RetryConfig {
    RetryConfig {
        // Time is the limit.
        max_retries: usize::MAX,
        retry_timeout: Duration::from_secs(retry_seconds(settings)),
        backoff: BackoffConfig { init_backoff: PAUSE_FIRST, max_backoff: PAUSE_MAX, ..BackoffConfig::default() },
    }
}

fn client() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
        .with_timeout(Duration::from_secs(ANSWER_SECONDS_MAX))
}

/// The store of a URL.
///
/// # Errors
/// When there is none of its kind, or a setting is not one of its.
pub(super) fn connect(settings: &Settings, url: &Url) -> Result<Remote> {
    let settings = settings.store(&plain(url));
    Ok(match url.scheme() {
        "s3" | "s3a" => remote(Arc::new(s3(settings, url)?), url, settings),
        "gs" => remote(Arc::new(gcs(settings, url)?), url, settings),
        "az" | "azure" | "abfs" | "abfss" => remote(Arc::new(azure(settings, url)?), url, settings),
        "http" | "https" => {
            let root = url[..url::Position::BeforePath].to_string();
            let client = client().with_allow_http(true);
            let store =
                HttpBuilder::new().with_url(&root).with_client_options(client).with_retry(retries(settings)).build()?;
            Remote { store: Arc::new(Told::new(Arc::new(store), root, retry_seconds(settings))), uploads: None }
        }
        scheme => {
            return user_err!(
                "cannot open {url}: scheme {scheme:?} is none of file, s3, s3a, gs, az, abfs, abfss, http, https"
            );
        }
    })
}

fn remote<S: ObjectStore + MultipartStore>(store: Arc<S>, url: &Url, settings: Option<&StoreSettings>) -> Remote {
    let root = url[..url::Position::BeforePath].to_string();
    let told = Arc::new(Told::new(Arc::<S>::clone(&store), root, retry_seconds(settings)));
    let uploads = ToldUploads { inner: store, told: Arc::clone(&told) };
    Remote { store: told, uploads: Some(Arc::new(uploads)) }
}

/// Hadoop's `s3a` is `s3`.
fn plain(url: &Url) -> Url {
    match url.as_str().strip_prefix("s3a://") {
        Some(rest) => Url::parse(&format!("s3://{rest}")).unwrap_or_else(|_| url.clone()),
        None => url.clone(),
    }
}

fn bucket(url: &Url) -> Result<&str> {
    match url.host_str().filter(|host| !host.is_empty()) {
        Some(bucket) => Ok(bucket),
        None => user_err!("cannot open {url}: it names no bucket, write {}://BUCKET/PATH", url.scheme()),
    }
}

/// The options of a store by the keys that it has for them.
fn keys<K: std::str::FromStr>(settings: Option<&StoreSettings>) -> Result<Vec<(K, String)>> {
    let Some(StoreSettings { scope, options, .. }) = settings else { return Ok(vec![]) };
    let key = |(name, value): (&String, &String)| match name.parse() {
        Ok(key) => Ok((key, value.clone())),
        Err(_) => user_err!("[[store]] {scope:?} of the settings has the unknown option {name:?}"),
    };
    options.iter().map(key).collect()
}

fn s3(settings: Option<&StoreSettings>, url: &Url) -> Result<AmazonS3> {
    // Keys of two sources are not mixed: a token of the one would spoil the key of the other.
    let none = BTreeMap::new();
    let own = settings.map_or(&none, |settings| &settings.options);
    let has_key = ["access_key_id", "aws_access_key_id", "skip_signature"].iter().any(|key| own.contains_key(*key));
    let mut builder = if has_key { AmazonS3Builder::new() } else { AmazonS3Builder::from_env() };
    builder = builder.with_bucket_name(bucket(url)?).with_retry(retries(settings));
    let own_endpoint =
        ["endpoint", "endpoint_url", "aws_endpoint_url", "aws_endpoint"].iter().find_map(|key| own.get(*key));
    let endpoint = own_endpoint.cloned().or_else(|| std::env::var("AWS_ENDPOINT_URL").ok());
    builder = builder.with_client_options(client());
    if let Some(endpoint) = endpoint {
        builder = builder
            .with_allow_http(endpoint.starts_with("http://"))
            .with_virtual_hosted_style_request(false)
            .with_endpoint(endpoint);
    }
    for (key, value) in keys(settings)? {
        builder = builder.with_config(key, value);
    }
    Ok(builder.build()?)
}

fn gcs(settings: Option<&StoreSettings>, url: &Url) -> Result<GoogleCloudStorage> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket(url)?)
        .with_retry(retries(settings))
        .with_client_options(client());
    for (key, value) in keys(settings)? {
        builder = builder.with_config(key, value);
    }
    Ok(builder.build()?)
}

fn azure(settings: Option<&StoreSettings>, url: &Url) -> Result<MicrosoftAzure> {
    bucket(url)?;
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_url(url.as_str())
        .with_retry(retries(settings))
        .with_client_options(client());
    for (key, value) in keys(settings)? {
        builder = builder.with_config(key, value);
    }
    Ok(builder.build()?)
}
