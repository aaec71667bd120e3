//! Layers as they are stored: plain, gzip (any number of members), zstd (any number of frames). Both decoders
//! are safe Rust. The media type decides which is used; nothing is guessed.

use super::bounds::MAX_WINDOW;
use super::{ImageError, refused};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, BufReader, Read};

/// The plain bytes of a layer of this media type.
pub(super) fn decoder<'a>(
    media_type: &str,
    stored: impl Read + 'a,
) -> Result<Box<dyn Read + 'a>, ImageError> {
    const PLAIN: &[&str] =
        &["application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"];
    const GZIP: &[&str] =
        &["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"];
    const ZSTD: &[&str] =
        &["application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.docker.image.rootfs.diff.tar.zstd"];
    if PLAIN.contains(&media_type) {
        Ok(Box::new(stored))
    } else if GZIP.contains(&media_type) {
        Ok(Box::new(flate2::read::MultiGzDecoder::new(stored)))
    } else if ZSTD.contains(&media_type) {
        Ok(Box::new(Frames::new(stored)))
    } else {
        Err(refused(format!("a layer of the kind {media_type:?} can't be unpacked")))
    }
}

/// Frames one after the other (RFC 8878, section 3): zstd's parallel and seekable writers make many.
struct Frames<R: Read> {
    source: BufReader<R>,
    decoder: FrameDecoder,
    within: bool,
}

impl<R: Read> Frames<R> {
    fn new(stored: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        Self { source: BufReader::new(stored), decoder, within: false }
    }

    fn begin(&mut self) -> io::Result<()> {
        match self.decoder.init(&mut self.source) {
            Ok(()) => self.within = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                io::copy(&mut self.source.by_ref().take(u64::from(length)), &mut io::sink())?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(())
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.within {
                if self.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.begin()?;
            } else if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            } else if self.decoder.is_finished() {
                self.within = false;
            } else {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            }
        }
    }
}
