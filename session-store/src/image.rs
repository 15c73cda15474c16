//! Images of messages: which are kept, told by their bytes and never by a name.

use crate::event::ImageRef;
use crate::side::sha256_hex;

/// The largest image, in bytes: 5 MiB in base64, the least that a provider takes.
pub const IMAGE_BYTES_MAX: u64 = (5 << 20) / 4 * 3;
/// The longest side, in pixels.
pub const IMAGE_SIDE_MAX: u32 = 8_000;
/// How many images a message may have.
pub const MESSAGE_IMAGES_MAX: usize = 20;
/// How many bytes they may have together: the whole request has to stay below what providers take.
pub const MESSAGE_IMAGE_BYTES_MAX: u64 = 16 << 20;
impl ImageRef {
    /// Looks at `bytes`, the whole file. Takes some milliseconds for each MB.
    ///
    /// # Errors
    /// It is no png, jpeg, gif or webp, or larger than [`IMAGE_BYTES_MAX`] or [`IMAGE_SIDE_MAX`].
    pub fn of(bytes: &[u8]) -> Result<Self, ImageError> {
        let kind = Kind::of(bytes).ok_or(ImageError::Foreign)?;
        if bytes.len() as u64 > IMAGE_BYTES_MAX {
            return Err(ImageError::TooLarge { bytes: bytes.len() as u64 });
        }
        let (width, height) =
            kind.size(bytes).filter(|(width, height)| *width > 0 && *height > 0).ok_or(ImageError::Damaged(kind.name()))?;
        if width.max(height) > IMAGE_SIDE_MAX {
            return Err(ImageError::TooWide { width, height });
        }
        let media_type = format!("image/{}", kind.name());
        Ok(Self { media_type, width, height, sha256: sha256_hex(bytes), bytes: bytes.len() as u64 })
    }
}

/// Why an image is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Its bytes are not those of an image of a kind that models take.
    #[error("it is no image that models take: png, jpeg, gif or webp")]
    Foreign,
    /// Its start is that of an image, and its size cannot be read.
    #[error("the {0} is cut or damaged: its size cannot be read")]
    Damaged(&'static str),
    /// Too many bytes.
    #[error("the image has {bytes} bytes, and models take at most {IMAGE_BYTES_MAX}; make it smaller")]
    TooLarge {
        /// How many it has.
        bytes: u64,
    },
    /// Too many pixels.
    #[error("the image has {width}x{height} pixels, and models take at most {IMAGE_SIDE_MAX} a side; make it smaller")]
    TooWide {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
}

#[derive(Clone, Copy)]
enum Kind {
    Png,
    Jpeg,
    Gif,
    Webp,
}

impl Kind {
    fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Some(Self::Png),
            [0xFF, 0xD8, 0xFF, ..] => Some(Self::Jpeg),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::Webp),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Gif => "gif",
            Self::Webp => "webp",
        }
    }

    /// Width and height, from the header.
    fn size(self, bytes: &[u8]) -> Option<(u32, u32)> {
        match self {
            Self::Png => Some((be32(bytes, 16)?, be32(bytes, 20)?)).filter(|_| bytes.get(12..16) == Some(b"IHDR")),
            Self::Jpeg => jpeg_size(bytes),
            Self::Gif => Some((u32::from(le16(bytes, 6)?), u32::from(le16(bytes, 8)?))),
            Self::Webp => webp_size(bytes),
        }
    }
}

/// Whether `start` begins as an image does that models take.
#[must_use]
pub fn is_image(start: &[u8]) -> bool {
    Kind::of(start).is_some()
}

/// Goes from marker to marker up to the first that starts a frame.
fn jpeg_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        if *bytes.get(at)? != 0xFF {
            return None;
        }
        match *bytes.get(at + 1)? {
            // Fill.
            0xFF => at += 1,
            // Markers that stand alone.
            0x01 | 0xD0..=0xD8 => at += 2,
            // The data or the end before any frame.
            0xD9 | 0xDA => return None,
            // All that start a frame; between them are tables.
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                return Some((u32::from(be16(bytes, at + 7)?), u32::from(be16(bytes, at + 5)?)));
            }
            _ => at += 2 + usize::from(be16(bytes, at + 2)?),
        }
    }
}

fn webp_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let le24 = |at| Some(u32::from(le16(bytes, at)?) | u32::from(*bytes.get(at + 2)?) << 16);
    match bytes.get(12..16)? {
        b"VP8 " if bytes.get(23..26)? == [0x9D, 0x01, 0x2A] => {
            Some((u32::from(le16(bytes, 26)? & 0x3FFF), u32::from(le16(bytes, 28)? & 0x3FFF)))
        }
        b"VP8L" if *bytes.get(20)? == 0x2F => {
            let bits = u32::from(le16(bytes, 21)?) | u32::from(le16(bytes, 23)?) << 16;
            Some(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        }
        b"VP8X" => Some((le24(24)? + 1, le24(27)? + 1)),
        _ => None,
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(bytes: &[u8]) -> Result<(String, u32, u32), ImageError> {
        ImageRef::of(bytes).map(|image| (image.media_type, image.width, image.height))
    }

    fn png(width: u32, height: u32) -> Vec<u8> {
        [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &width.to_be_bytes()[..], &height.to_be_bytes(), b"\x08\x02\0\0\0"].concat()
    }

    #[test]
    fn kind_and_size_are_told_by_the_bytes() {
        let jpeg = b"\xFF\xD8\xFF\xE0\0\x04ab\xFF\xFF\xC4\0\x03x\xFF\xC2\0\x0B\x08\x01\xE0\x02\x80\x03";
        let lossy = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0abc\x9D\x01\x2A\x80\x02\xE0\x41";
        let lossless = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2F\x7F\xC2\x77\0";
        let extended = b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0\x7F\x02\0\xDF\x01\0";
        for (bytes, kind) in [
            (&png(640, 480)[..], "png"),
            (jpeg, "jpeg"),
            (b"GIF89a\x80\x02\xE0\x01", "gif"),
            (lossy, "webp"),
            (lossless, "webp"),
            (extended, "webp"),
        ] {
            assert_eq!(size(bytes), Ok((format!("image/{kind}"), 640, 480)));
            assert!(matches!(size(&bytes[..bytes.len().min(12)]), Err(ImageError::Damaged(_)) | Ok(_)), "a cut {kind}");
        }
    }

    #[test]
    fn what_no_model_takes_is_refused_with_the_limit() {
        assert_eq!(size(b"%PDF-1.7"), Err(ImageError::Foreign));
        assert_eq!(size(b""), Err(ImageError::Foreign));
        assert_eq!(size(&png(640, 480)[..18]), Err(ImageError::Damaged("png")));
        assert_eq!(size(&png(0, 480)), Err(ImageError::Damaged("png")));
        assert_eq!(size(b"\xFF\xD8\xFF\xD9"), Err(ImageError::Damaged("jpeg")));
        assert_eq!(size(&png(8_000, 8_001)), Err(ImageError::TooWide { width: 8_000, height: 8_001 }));
        let mut large = png(640, 480);
        large.resize(3_932_160, 0);
        assert!(size(&large).is_ok());
        assert_eq!(large.len() / 3 * 4, 5 << 20, "in base64");
        large.push(0);
        let error = size(&large).expect_err("one byte too many");
        assert_eq!(error.to_string(), "the image has 3932161 bytes, and models take at most 3932160; make it smaller");
    }
}
