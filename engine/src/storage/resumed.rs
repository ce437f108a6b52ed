//! What is read of an object goes on where it broke.
//!
//! A client gives an answer so much time, its body included. That is too short for what is read slowly, since whoever
//! reads it does more than read, and a connection may break at any time. So the rest is asked for again, as often as
//! something has come since the last time.

use std::ops::Range;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::{GetResult, GetResultPayload, ObjectMeta, Result};

struct Body<F> {
    meta: ObjectMeta,
    /// What is still to come.
    range: Range<u64>,
    stream: BoxStream<'static, Result<Bytes>>,
    has_progressed: bool,
    again: F,
}

/// An answer whose body goes on where it breaks. `again` asks for a range of the same object.
pub(super) fn resumed<F>(first: GetResult, again: F) -> GetResult
where
    F: Fn(Range<u64>) -> BoxFuture<'static, Result<GetResult>> + Send + 'static,
{
    let GetResult { payload, meta, range, attributes } = first;
    let payload = match payload {
        GetResultPayload::Stream(stream) => {
            let body = Body { meta: meta.clone(), range: range.clone(), stream, has_progressed: false, again };
            let bytes = futures::stream::try_unfold(body, |mut body| async {
                let bytes = body.next().await?;
                Ok(bytes.map(|bytes| (bytes, body)))
            });
            GetResultPayload::Stream(bytes.boxed())
        }
        file => file,
    };
    GetResult { payload, meta, range, attributes }
}

impl<F: Fn(Range<u64>) -> BoxFuture<'static, Result<GetResult>>> Body<F> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.stream.try_next().await {
                Ok(Some(bytes)) => {
                    self.range.start += bytes.len() as u64;
                    self.has_progressed = true;
                    return Ok(Some(bytes));
                }
                Ok(None) => return Ok(None),
                Err(error) if self.has_progressed && !self.range.is_empty() => {
                    tracing::debug!(target: "covey", path = %self.meta.location, %error, "the rest is asked for again");
                    let rest = (self.again)(self.range.clone()).await?;
                    if !self.is_same(&rest.meta) || rest.range != self.range {
                        return Err(error);
                    }
                    self.stream = rest.into_stream();
                    self.has_progressed = false;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the object is still the one that was begun with.
    fn is_same(&self, meta: &ObjectMeta) -> bool {
        match (&self.meta.e_tag, &meta.e_tag) {
            (Some(before), Some(now)) => before == now,
            _ => (self.meta.size, self.meta.last_modified) == (meta.size, meta.last_modified),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use object_store::Error;

    use super::*;

    /// An answer that breaks after a few bytes.
    fn breaking(text: &'static [u8], e_tag: &str, range: Range<u64>, bytes: usize) -> GetResult {
        let meta = ObjectMeta {
            location: "a/b".into(),
            last_modified: Default::default(),
            size: text.len() as u64,
            e_tag: Some(e_tag.into()),
            version: None,
        };
        let rest = &text[range.start as usize..range.end as usize];
        let part = Bytes::from_static(&rest[..bytes.min(rest.len())]);
        let mut items = vec![Ok(part.clone())];
        if part.len() < rest.len() {
            items.push(Err(Error::Generic { store: "test", source: "broken".into() }));
        }
        let items = items.into_iter().filter(|item| !matches!(item, Ok(part) if part.is_empty()));
        let payload = GetResultPayload::Stream(futures::stream::iter(items.collect::<Vec<_>>()).boxed());
        GetResult { payload, meta, range, attributes: Default::default() }
    }

    async fn read(bytes: usize, e_tag: &'static str) -> (Result<Bytes>, usize) {
        let text = b"what is read goes on";
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let again = move |range| {
            count.fetch_add(1, Ordering::Relaxed);
            futures::future::ready(Ok(breaking(text, e_tag, range, bytes))).boxed()
        };
        let read = resumed(breaking(text, "1", 0..20, 7), again).bytes().await;
        (read, asked.load(Ordering::Relaxed))
    }

    /// Goal: a body that breaks again and again is whole in the end; one that gives nothing any more, or has become
    /// another, is an error.
    #[tokio::test]
    async fn bodies_go_on() {
        let (whole, asked) = read(5, "1").await;
        assert_eq!((whole.unwrap().as_ref(), asked), (b"what is read goes on".as_ref(), 3));
        let (stuck, asked) = read(0, "1").await;
        assert!(stuck.unwrap_err().to_string().contains("broken"));
        assert_eq!(asked, 1);
        let (other, asked) = read(5, "2").await;
        assert!(other.is_err() && asked == 1);
    }
}
