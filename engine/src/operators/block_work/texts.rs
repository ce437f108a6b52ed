//! Documents: counting their terms, and turning them into blocks.

use std::sync::Arc;

use covey_udfs::kmeans::Profile;
use covey_udfs::matrix::{Density, Points};
use covey_udfs::tfidf::{TermFrequency, TfidfParams, Vectorizer, Vocabulary, count_terms};
use datafusion::arrow::array::{ArrayRef, StringArray, UInt64Array};
use datafusion::error::Result;
use rayon::prelude::*;
use url::Url;
use uuid::Uuid;

use super::{Task, VectorizeSpec};
use crate::blocks::{Documents, encode_points};
use crate::models::vocabulary_file;
use crate::operators::blocks::{cancelled, compute};
use crate::storage::Directory;
use crate::{external, storage};

/// Texts that one thread works on between two looks at the cancel flag.
const CHUNK_TEXTS: usize = 4_096;

pub(super) async fn count(task: Task, params: TfidfParams) -> Result<Vec<ArrayRef>> {
    let mut total: std::collections::HashMap<String, TermFrequency> = Default::default();
    for url in &task.urls {
        let documents = Documents::read(task.stores.as_ref(), url).await?;
        let params = params.clone();
        let counted = compute(move |cancel| {
            chunks(documents.len())
                .map(|range| {
                    if cancel.load(std::sync::atomic::Ordering::Relaxed) {
                        return Err(cancelled());
                    }
                    let texts = range.map(|i| (documents.texts.value(i), documents.rows.value(i)));
                    count_terms(&params, texts).map_err(external)
                })
                .try_reduce(Default::default, |a, b| Ok(add(a, b)))
        })
        .await?;
        total = add(total, counted);
    }
    let (terms, frequencies): (Vec<String>, Vec<TermFrequency>) = total.into_iter().unzip();
    let documents = UInt64Array::from_iter_values(frequencies.iter().map(|frequency| frequency.documents));
    let occurrences = UInt64Array::from_iter_values(frequencies.iter().map(|frequency| frequency.occurrences));
    Ok(vec![Arc::new(StringArray::from(terms)), Arc::new(documents), Arc::new(occurrences)])
}

type Frequencies = std::collections::HashMap<String, TermFrequency>;

fn add(mut a: Frequencies, mut b: Frequencies) -> Frequencies {
    if a.len() < b.len() {
        std::mem::swap(&mut a, &mut b);
    }
    for (term, frequency) in b {
        let sum = a.entry(term).or_default();
        sum.documents += frequency.documents;
        sum.occurrences += frequency.occurrences;
    }
    a
}

fn chunks(n: usize) -> impl ParallelIterator<Item = std::ops::Range<usize>> {
    (0..n).into_par_iter().step_by(CHUNK_TEXTS).map(move |start| start..(start + CHUNK_TEXTS).min(n))
}

pub(super) async fn vectorize(task: Task, spec: VectorizeSpec) -> Result<Vec<ArrayRef>> {
    let bytes = storage::get_url(task.stores.as_ref(), &spec.vocabulary).await?;
    let vocabulary = Arc::new(vocabulary_file::decode(bytes, &spec.vocabulary)?);
    let directory = Directory::open(task.stores.as_ref(), &Url::parse(&spec.directory).map_err(external)?)?;
    let (mut urls, mut values, mut profiles) = (vec![], vec![], vec![]);
    for document in &task.urls {
        let documents = Documents::read(task.stores.as_ref(), document).await?;
        let (params, vocabulary) = (spec.params.clone(), Arc::clone(&vocabulary));
        let (points, content, profile) = compute(move |cancel| {
            let points = vectorize_documents(&documents, &params, &vocabulary, cancel)?;
            let (content, profile) = (encode_points(&points)?, Profile::of(&points));
            Ok((Arc::new(points), content, profile))
        })
        .await?;
        let name = format!("{}.arrow", Uuid::new_v4());
        directory.put(&name, content).await?;
        let url = directory.url_of(&name)?.to_string();
        task.services.hold(&task.fit, &url, Arc::clone(&points)).await;
        urls.push(url);
        values.push(points.rows.values().len() as u64);
        profiles.push(serde_json::to_string(&profile).map_err(external)?);
    }
    let executor = StringArray::from(vec![task.services.executor_id.as_str(); urls.len()]);
    let documents = StringArray::from(task.urls);
    Ok(vec![
        Arc::new(executor),
        Arc::new(StringArray::from(urls)),
        Arc::new(documents),
        Arc::new(UInt64Array::from(values)),
        Arc::new(StringArray::from(profiles)),
    ])
}

fn vectorize_documents(
    documents: &Documents,
    params: &TfidfParams,
    vocabulary: &Vocabulary,
    cancel: &std::sync::atomic::AtomicBool,
) -> Result<Points> {
    let parts: Vec<Points> = chunks(documents.len())
        .map(|range| {
            if cancel.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(cancelled());
            }
            let mut vectorizer = Vectorizer::try_new(params, vocabulary).map_err(external)?;
            let mut points = Points::new(Density::Sparse, vocabulary.len());
            for i in range {
                points.rows.push(vectorizer.row(documents.texts.value(i)).iter().copied()).map_err(external)?;
                points.weights.push(documents.weights.value(i));
            }
            Ok(points)
        })
        .collect::<Result<_>>()?;
    let mut all = Points::new(Density::Sparse, vocabulary.len());
    parts.iter().for_each(|part| all.append(part));
    Ok(all)
}
