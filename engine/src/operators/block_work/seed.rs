//! Seeding: each task draws the rows of its blocks that may matter, and one chooses among them.

use std::sync::Arc;

use covey_udfs::kmeans::{self, Centroids, Distinct, FixedPoint, Frame, Prospects};
use covey_udfs::matrix::Points;
use datafusion::arrow::array::ArrayRef;
use datafusion::error::Result;
use url::Url;
use uuid::Uuid;

use super::fit::result_row;
use super::iterate::{self, Tally};
use super::{SeedSpec, Task};
use crate::blocks::{decode_points, encode_points};
use crate::coordinator::{Arithmetic, GIVEN};
use crate::external;
use crate::operators::blocks::{cancelled, compute};
use crate::operators::partial_wire::decode_centroids;
use crate::storage::{self, Directory};

/// Writes the rows of the blocks that seeding looks at, where there are any.
pub(super) async fn draw(task: Task, spec: SeedSpec, directory: &str) -> Result<Vec<ArrayRef>> {
    let directory = Directory::open(task.stores.as_ref(), &Url::parse(directory).map_err(external)?)?;
    let arithmetic = task.arithmetic().await?;
    let (mut tally, mut prospects) = (Tally::default(), Prospects::new(vec![], spec.metric));
    for url in &task.urls {
        let (block, frame) = (task.take(url, &mut tally).await?, arithmetic.frame.clone());
        let rows = move || (Arc::clone(&block.points), block.distinct(&frame));
        prospects = with_rows(prospects, rows, &spec, &arithmetic).await?;
    }
    let content = compute(move |_| prospects.into_points().map(|points| encode_points(&points)).transpose()).await?;
    let mut url = String::new();
    if let Some(content) = content {
        let name = format!("{}.arrow", Uuid::new_v4());
        directory.put(&name, content).await?;
        url = directory.url_of(&name)?.to_string();
    }
    Ok(iterate::result_row(&task, &tally, url.as_bytes()))
}

/// Chooses among what was drawn, which is read once and not kept.
pub(super) async fn seed(task: Task, spec: SeedSpec) -> Result<Vec<ArrayRef>> {
    if let Some(given) = given(&task, &spec).await? {
        return Ok(result_row(&given, String::from("[]")));
    }
    let arithmetic = task.arithmetic().await?;
    let mut prospects = Prospects::new(vec![], spec.metric);
    for url in &task.urls {
        let points = Arc::new(decode_points(storage::get_url(task.stores.as_ref(), url).await?, url)?);
        let frame = arithmetic.frame.clone();
        let rows = move || {
            let distinct = Arc::new(Distinct::new(&points, &frame));
            (points, distinct)
        };
        prospects = with_rows(prospects, rows, &spec, &arithmetic).await?;
    }
    let work = move |cancel: &kmeans::Cancel| seed_of(prospects, &spec, &arithmetic.scale, &arithmetic.frame, cancel);
    Ok(result_row(&compute(work).await?, String::from("[]")))
}

/// Adds rows, and leaves out again what seeding does not look at.
async fn with_rows(
    mut prospects: Prospects,
    rows: impl FnOnce() -> (Arc<Points>, Arc<Distinct>) + Send + 'static,
    spec: &SeedSpec,
    arithmetic: &Arc<Arithmetic>,
) -> Result<Prospects> {
    let (params, arithmetic) = (spec.params, Arc::clone(arithmetic));
    compute(move |_| {
        let (points, distinct) = rows();
        prospects.add(points, distinct);
        Ok(prospects.narrow(&params, &arithmetic.frame))
    })
    .await
}

/// The centres that the fit has published to begin with, if it has.
pub(super) async fn given(task: &Task, spec: &SeedSpec) -> Result<Option<Centroids>> {
    match spec.given {
        true => decode_centroids(&task.fetch(GIVEN).await?).map(Some),
        false => Ok(None),
    }
}

pub(super) fn seed_of(
    prospects: Prospects,
    spec: &SeedSpec,
    scale: &FixedPoint,
    frame: &Frame,
    cancel: &kmeans::Cancel,
) -> Result<Centroids> {
    let seeds = match spec.at_most {
        true => kmeans::seed_at_most(prospects, &spec.params, scale, frame, cancel),
        false => kmeans::seed(prospects, &spec.params, scale, frame, cancel).map_err(external)?,
    };
    seeds.ok_or_else(cancelled)
}
