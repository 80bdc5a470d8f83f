//! A file in parts, each of which ends with a line.

use std::{io, pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::Mutex,
};

use super::progress::Counts;
use crate::failure::Failure;

/// How much of the file is read at a time, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// What is read.
pub(super) type Reader = Pin<Box<dyn AsyncRead + Send>>;

/// What is read, and how long it is where that is known.
pub(super) async fn open(file: &str) -> Result<(Reader, Option<u64>), Failure> {
    if file == "-" {
        return Ok((Box::pin(tokio::io::stdin()), None));
    }
    let unreadable = |error| Failure::failed(format!("cannot read {file}: {error}"));
    let opened = tokio::fs::File::open(file).await.map_err(unreadable)?;
    let metadata = opened.metadata().await.map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Failure::failed(format!("cannot read {file}: it is a directory")));
    }
    Ok((Box::pin(opened), metadata.is_file().then_some(metadata.len())))
}

/// The rest of a file.
pub(super) struct Parts {
    reader: Reader,
    part_bytes: u64,
    /// Read and not sent yet.
    ahead: Bytes,
    counts: Arc<Counts>,
}

impl Parts {
    /// Splits all input into parts of this many bytes, each extended to the end of a line.
    pub(super) fn new(reader: Reader, part_bytes: u64, counts: Arc<Counts>) -> Self {
        Self { reader, part_bytes, ahead: Bytes::new(), counts }
    }

    /// Whether nothing is left. Unreadable input counts as left, and fails when it is sent.
    pub(super) async fn at_end(&mut self) -> bool {
        matches!(self.look_ahead().await, Ok(false))
    }

    /// Reads something, unless something is already buffered. False at the end.
    async fn look_ahead(&mut self) -> io::Result<bool> {
        if self.ahead.is_empty() {
            let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
            self.reader.read_buf(&mut chunk).await?;
            self.ahead = chunk.freeze();
        }
        Ok(!self.ahead.is_empty())
    }

    /// The next piece of a part of which `sent` bytes are sent, and whether it is the last.
    async fn piece(&mut self, sent: u64) -> io::Result<Option<(Bytes, bool)>> {
        if !self.look_ahead().await? {
            return Ok(None);
        }
        let end = end_of_part(&self.ahead, self.part_bytes.saturating_sub(sent));
        let piece = self.ahead.split_to(end.unwrap_or(self.ahead.len()));
        self.counts.sent(&piece);
        Ok(Some((piece, end.is_some())))
    }
}

/// Where a part with this many bytes left ends: after the first line break from there on.
fn end_of_part(chunk: &[u8], left: u64) -> Option<usize> {
    let from = usize::try_from(left).unwrap_or(usize::MAX).saturating_sub(1);
    let line_break = chunk.get(from..)?.iter().position(|byte| *byte == b'\n')?;
    Some(from + line_break + 1)
}

/// The pieces of the next part.
pub(super) fn next(
    parts: Arc<Mutex<Parts>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::try_unfold(Some(0), move |sent: Option<u64>| {
        let parts = parts.clone();
        async move {
            let Some(sent) = sent else { return Ok(None) };
            let piece = parts.lock().await.piece(sent).await?;
            Ok(piece.map(|(piece, last)| {
                let sent = sent + piece.len() as u64;
                (piece, (!last).then_some(sent))
            }))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_behind_the_first_line_break_that_makes_it_long_enough() {
        assert_eq!(end_of_part(b"ab\ncd\n", 3), Some(3));
        assert_eq!(end_of_part(b"ab\ncd\n", 4), Some(6));
        assert_eq!(end_of_part(b"ab\ncd\n", 0), Some(3));
        assert_eq!(end_of_part(b"ab\ncd", 4), None);
        assert_eq!(end_of_part(b"ab", 100), None);
    }
}
