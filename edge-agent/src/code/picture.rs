//! QR codes (ISO/IEC 18004) as lines of a terminal, PNG and SVG; and the way back from a PNG picture.

use std::io::Cursor;

use png::{BitDepth, ColorType, Transformations};
use qrcode::render::{svg, unicode};
use qrcode::{Color, EcLevel, QrCode};
use schemas::signed::CodeText;

/// Pixels of one module's side.
const SCALE: usize = 8;
/// Light modules around a code, as the standard asks for.
const QUIET: usize = 4;
/// Most memory that a picture may take when it is decoded, in bytes.
const DECODED_BYTES: usize = 64 << 20;

/// Why there is no picture, or nothing in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PictureError {
    #[error("no QR code can be made of this: {0}")]
    Make(String),
    #[error(
        "the picture is no PNG that can be read ({0}): take it again, or give the code's text with --text"
    )]
    Read(String),
    #[error("no QR code is found in the picture: take it again, sharper and nearer")]
    Nothing,
}

/// For a terminal, two modules on top of each other in each character. Light modules are what shines: whoever prints it
/// sees to a light colour on a dark one, as not every scanner reads it the other way round.
pub(crate) fn as_lines(text: &str) -> Result<String, PictureError> {
    let code = encode(text)?;
    let mut image = code.render::<unicode::Dense1x2>();
    // Light modules are the ones that shine.
    image.dark_color(unicode::Dense1x2::Light).light_color(unicode::Dense1x2::Dark);
    Ok(image.build())
}

/// As SVG.
pub(crate) fn as_svg(text: &str) -> Result<String, PictureError> {
    Ok(encode(text)?.render::<svg::Color<'_>>().min_dimensions(400, 400).build())
}

/// As PNG, 8 pixels for each module.
pub(crate) fn as_png(text: &str) -> Result<Vec<u8>, PictureError> {
    let code = encode(text)?;
    let (modules, width) = (code.to_colors(), code.width());
    let side = (width + 2 * QUIET) * SCALE;
    let mut pixels = vec![u8::MAX; side * side];
    for (index, _) in modules.iter().enumerate().filter(|(_, color)| **color == Color::Dark) {
        let (x, y) = ((index % width + QUIET) * SCALE, (index / width + QUIET) * SCALE);
        for row in y..y + SCALE {
            pixels[row * side + x..][..SCALE].fill(0);
        }
    }
    let failed = |error: png::EncodingError| PictureError::Make(error.to_string());
    let side = u32::try_from(side).map_err(|_| PictureError::Make("too large".to_owned()))?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// The text of the code in a PNG picture; of several, the first one that is ours.
pub(crate) fn read_png(bytes: &[u8]) -> Result<String, PictureError> {
    let grey = Grey::read(bytes)?;
    let mut prepared =
        rqrr::PreparedImage::prepare_from_greyscale(grey.width, grey.height, |x, y| grey.at(x, y));
    let found: Vec<String> =
        prepared.detect_grids().iter().filter_map(|grid| grid.decode().ok()).map(|(_, text)| text).collect();
    let ours = |text: &&String| text.parse::<CodeText>().is_ok_and(|text| text.presented().is_some());
    let chosen = found.iter().find(ours).or(found.first());
    chosen.cloned().ok_or(PictureError::Nothing)
}

fn encode(text: &str) -> Result<QrCode, PictureError> {
    QrCode::with_error_correction_level(text, EcLevel::M)
        .map_err(|error| PictureError::Make(error.to_string()))
}

struct Grey {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Grey {
    fn read(bytes: &[u8]) -> Result<Self, PictureError> {
        let failed = |error: png::DecodingError| PictureError::Read(error.to_string());
        let limits = png::Limits { bytes: DECODED_BYTES };
        let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
        decoder.set_transformations(Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().map_err(failed)?;
        let size = reader.output_buffer_size().filter(|size| *size <= DECODED_BYTES);
        let mut buffer = vec![0; size.ok_or_else(|| PictureError::Read("it is too large".to_owned()))?];
        let info = reader.next_frame(&mut buffer).map_err(failed)?;
        let samples = info.color_type.samples();
        let pixels = buffer[..info.buffer_size()].chunks_exact(samples).map(luma).collect();
        let size = |side: u32| usize::try_from(side).unwrap_or(0);
        Ok(Self { width: size(info.width), height: size(info.height), pixels })
    }

    fn at(&self, x: usize, y: usize) -> u8 {
        self.pixels.get(y * self.width + x).copied().unwrap_or(u8::MAX)
    }
}

/// Brightness (ITU-R BT.601) before a white background.
fn luma(pixel: &[u8]) -> u8 {
    let wide = |sample: u8| u32::from(sample);
    let (brightness, opacity) = match *pixel {
        [grey] => (wide(grey), 255),
        [grey, opacity] => (wide(grey), wide(opacity)),
        [red, green, blue] => ((299 * wide(red) + 587 * wide(green) + 114 * wide(blue)) / 1000, 255),
        [red, green, blue, opacity] => {
            ((299 * wide(red) + 587 * wide(green) + 114 * wide(blue)) / 1000, wide(opacity))
        }
        _ => (255, 255),
    };
    u8::try_from((brightness * opacity + 255 * (255 - opacity)) / 255).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As long as a code of the cloud with all of its claims.
    fn long() -> String {
        format!("FQ1:{}", "6BF+70790T9WJWG.FKY*4GO0".repeat(12))
    }

    /// PC-10
    #[test]
    fn a_picture_reads_back_to_its_text() {
        for text in ["FQ1:6BF+70790", &long()] {
            assert_eq!(read_png(&as_png(text).unwrap()).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_picture_or_shows_no_code_is_said() {
        assert!(matches!(read_png(b"hello"), Err(PictureError::Read(_))));
        assert!(matches!(read_png(&[]), Err(PictureError::Read(_))));
        let mut blank = Vec::new();
        let mut encoder = png::Encoder::new(&mut blank, 64, 64);
        encoder.set_color(ColorType::Rgba);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[0; 64 * 64 * 4]).unwrap();
        writer.finish().unwrap();
        assert!(matches!(read_png(&blank), Err(PictureError::Nothing)));
        let whole = as_png(&long()).unwrap();
        for length in [8, 40, whole.len() / 2] {
            assert!(read_png(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn brightness_is_that_before_a_white_background() {
        let cases: [(&[u8], u8); 7] = [
            (&[7], 7),
            (&[0, 0], 255),
            (&[0, 255], 0),
            (&[255, 255, 255], 255),
            (&[255, 0, 0], 76),
            (&[0, 0, 0, 255], 0),
            (&[0, 0, 0, 0], 255),
        ];
        for (pixel, expected) in cases {
            assert_eq!(luma(pixel), expected, "{pixel:?}");
        }
    }

    /// Light modules shine: half blocks of the quiet zone are filled.
    #[test]
    fn a_terminal_gets_two_modules_in_each_character() {
        let lines = as_lines(&long()).unwrap();
        let first = lines.lines().next().unwrap();
        assert!(first.chars().all(|c| c == '\u{2588}'), "{first}");
        let width = first.chars().count();
        assert_eq!(lines.lines().count(), width.div_ceil(2));
        assert!(width <= 69, "version 11 at most: {width}");
        assert!(as_svg(&long()).unwrap().contains("<svg"));
    }
}
