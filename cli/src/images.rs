//! Images that a person names by their files.

use crate::error::CliError;
use agent_runtime::{IMAGE_BYTES_MAX, Image, ImageError, check_images};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Reads the images, on a thread that may block.
///
/// # Errors
/// Wrong usage: the first that cannot be read, or is none that models take.
pub(crate) async fn read_all(paths: Vec<PathBuf>) -> Result<Vec<Image>, CliError> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let read = tokio::task::spawn_blocking(move || {
        let images: Vec<Image> = paths.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
        check_images(&images).map_err(CliError::from)?;
        Ok(images)
    });
    read.await.unwrap_or_else(|_| Err(CliError::failed("the runtime is shutting down")))
}

/// The same for one image.
///
/// # Errors
/// As [`read_all`].
pub(crate) async fn read_one(path: PathBuf) -> Result<Image, CliError> {
    let read = tokio::task::spawn_blocking(move || read(&path));
    read.await.unwrap_or_else(|_| Err(CliError::failed("the runtime is shutting down")))
}

fn read(path: &Path) -> Result<Image, CliError> {
    let failed = |why: String| CliError::usage(format!("cannot send the image `{}`: {why}", path.display()));
    let bytes = read_file(path).map_err(|error| failed(error.to_string()))?;
    bytes.and_then(Image::new).map_err(|error| failed(error.to_string()))
}

/// The bytes of a regular file that is not too large to be sent: of a larger one nothing is read.
fn read_file(path: &Path) -> io::Result<Result<Vec<u8>, ImageError>> {
    // Opening a named pipe would wait for its other end.
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    if size > IMAGE_BYTES_MAX {
        return Ok(Err(ImageError::TooLarge { bytes: size }));
    }
    let mut bytes = Vec::new();
    // What grows meanwhile is refused by its length.
    file.take(IMAGE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(Ok(bytes))
}
