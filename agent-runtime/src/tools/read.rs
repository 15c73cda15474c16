//! `read`: a part of a text file, with line numbers; or an image.

use super::{Stop, clip, failed, number, path::Place, push_line, reading, text, visible};
use crate::images::Image;
use crate::tool::{Tool, ToolContext, ToolError, ToolOutput};
use async_trait::async_trait;
use rustix::fs::OFlags;
use serde_json::{Value, json};
use session_store::{IMAGE_BYTES_MAX, ImageError, ToolSpec, is_image};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;

/// Lines that are read where the model does not say how many.
const LINES_DEFAULT: usize = 2000;
/// A longer line (a minified file, a table of data) is cut.
const LINE_BYTES_MAX: usize = 2000;
/// The most of one call, whatever the lines.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// A file with a NUL this early is no text.
const BINARY_CHECK_BYTES: usize = 8 * 1024;

/// Reads a text file by lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadTool;

#[async_trait]
impl Tool for ReadTool {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "read".into(),
            description:
                "Read a text file, or look at an image (png, jpeg, gif, webp). Gives the lines of a text, each with its number and a tab in front. Reads 2,000 lines from the \
                          start unless told otherwise; for the rest of a long file, call again with `offset`. Use `list` for \
                          a directory and `search` to find a place in many files."
                    .into(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "minLength": 1, "description": "The file, relative to the working directory or absolute."},
                    "offset": {"type": "integer", "minimum": 1, "description": "The first line to read, counted from 1."},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 10000, "description": "How many lines to read; 2,000 by default."}
                },
                "required": ["path"],
                "additionalProperties": false
            }),
        }
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn needs_approval(&self, arguments: &Value, context: &ToolContext) -> bool {
        Place::needs_approval(text(arguments, "path"), context)
    }

    fn describe(&self, arguments: &Value) -> String {
        let path = visible(text(arguments, "path"));
        match (arguments["offset"].as_u64(), arguments["limit"].as_u64()) {
            (None, None) => format!("read {path}"),
            (offset, None) => format!("read {path} from line {}", offset.unwrap_or(1)),
            (offset, Some(limit)) => format!("read {path} from line {}, {limit} lines", offset.unwrap_or(1)),
        }
    }

    async fn run(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        let at = context.clone();
        let from = number(&arguments, "offset", 1) as u64;
        let count = number(&arguments, "limit", LINES_DEFAULT) as u64;
        reading(&context, move |stop| {
            let place = Place::of(text(&arguments, "path"), &at)?;
            let mut file = open(&place)?;
            if let Some(image) = read_image(&mut file, &place.shown)? {
                let text = format!("[`{}`: {}, {} bytes]", place.shown, image.reference().label(), image.reference().bytes);
                return Ok(ToolOutput { images: vec![image], ..ToolOutput::text(text) });
            }
            refuse_binary(&mut file, &place.shown)?;
            read_lines(&mut file, &place.shown, Lines { from, count }, stop).map(ToolOutput::text)
        })
        .await
    }
}

/// Opens a text file.
///
/// # Errors
/// It is a directory, a device or a pipe, or it is not text.
pub(super) fn open_text(place: &Place) -> Result<BufReader<File>, ToolError> {
    let mut file = open(place)?;
    refuse_binary(&mut file, &place.shown)?;
    Ok(file)
}

fn open(place: &Place) -> Result<BufReader<File>, ToolError> {
    let shown = &place.shown;
    // Without O_NONBLOCK, to open a named pipe waits for its other end.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(&place.path)
        .map_err(|error| failed("read", shown, &error))?;
    let meta = file.metadata().map_err(|error| failed("read", shown, &error))?;
    if meta.is_dir() {
        return Err(ToolError(format!("`{shown}` is a directory: use `list`")));
    }
    if !meta.is_file() {
        return Err(ToolError(format!("`{shown}` is not a regular file")));
    }
    Ok(BufReader::with_capacity(64 * 1024, file))
}

fn refuse_binary(file: &mut BufReader<File>, shown: &str) -> Result<(), ToolError> {
    let start = file.fill_buf().map_err(|error| failed("read", shown, &error))?;
    if start.iter().take(BINARY_CHECK_BYTES).any(|byte| *byte == 0) {
        let bytes = file.get_ref().metadata().map_err(|error| failed("read", shown, &error))?.len();
        return Err(ToolError(format!("`{shown}` is a binary file of {bytes} bytes")));
    }
    Ok(())
}

/// The image in the file; nothing where it is none. Of one that is too large nothing more is read.
///
/// # Errors
/// It is one that no model takes.
fn read_image(file: &mut BufReader<File>, shown: &str) -> Result<Option<Image>, ToolError> {
    let refused = |error: ImageError| ToolError(format!("`{shown}` cannot be shown: {error}"));
    if !is_image(file.fill_buf().map_err(|error| failed("read", shown, &error))?) {
        return Ok(None);
    }
    let size = file.get_ref().metadata().map_err(|error| failed("read", shown, &error))?.len();
    if size > IMAGE_BYTES_MAX {
        return Err(refused(ImageError::TooLarge { bytes: size }));
    }
    let mut bytes = Vec::new();
    file.take(IMAGE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| failed("read", shown, &error))?;
    Image::new(bytes).map(Some).map_err(refused)
}

#[derive(Clone, Copy)]
struct Lines {
    /// The first, from 1.
    from: u64,
    count: u64,
}

fn read_lines(file: &mut impl BufRead, shown: &str, lines: Lines, stop: &Stop) -> Result<String, ToolError> {
    let mut out = String::new();
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        let wanted = number + 1 >= lines.from;
        let keep = if wanted { LINE_BYTES_MAX } else { 0 };
        let Some(length) = next_line(file, &mut line, keep, stop).map_err(|error| error.told(shown))? else { break };
        number += 1;
        if !wanted {
            continue;
        }
        if number >= lines.from.saturating_add(lines.count) || out.len() >= OUTPUT_BYTES_MAX {
            out.push_str(&format!("[more lines follow: read on with offset {number}]\n"));
            return Ok(out);
        }
        push_line(&mut out, number, &clip(&line, length, LINE_BYTES_MAX));
    }
    match (number, lines.from) {
        (0, _) => Ok(format!("[`{shown}` is empty]\n")),
        (last, from) if from > last => Err(ToolError(format!("`{shown}` has only {last} lines"))),
        _ => Ok(out),
    }
}

pub(super) enum LineError {
    Io(io::Error),
    Stopped(ToolError),
}

impl LineError {
    pub(super) fn told(self, shown: &str) -> ToolError {
        match self {
            Self::Io(error) => failed("read", shown, &error),
            Self::Stopped(error) => error,
        }
    }
}

/// Reads one line, without its newline, of which at most `keep` bytes are put into `line`: a line of gigabytes costs no
/// memory. Gives the line's whole length, or nothing at the end of the file.
pub(super) fn next_line(file: &mut impl BufRead, line: &mut Vec<u8>, keep: usize, stop: &Stop) -> Result<Option<u64>, LineError> {
    line.clear();
    let mut length = 0_u64;
    let mut any = false;
    loop {
        stop.check().map_err(LineError::Stopped)?;
        let buffer = file.fill_buf().map_err(LineError::Io)?;
        if buffer.is_empty() {
            return Ok(any.then_some(length));
        }
        any = true;
        let newline = buffer.iter().position(|byte| *byte == b'\n');
        let part = newline.unwrap_or(buffer.len());
        let room = keep.saturating_sub(line.len());
        line.extend_from_slice(&buffer[..part.min(room)]);
        length += part as u64;
        file.consume(newline.map_or(part, |at| at + 1));
        if newline.is_some() {
            return Ok(Some(length));
        }
    }
}
