//! "Certs-only" PKCS#7: certificates in a signed-data structure that nobody signed (RFC 7030 4.1.3,
//! RFC 5652 5.1). The few bytes around the certificates are fixed, so they are written here.

use data_encoding::BASE64_MIME;

/// Certificates as base64 in lines, which is how EST sends them.
pub(super) fn encode(certificates: &[&[u8]]) -> String {
    BASE64_MIME.encode(&der(certificates))
}

fn der(certificates: &[&[u8]]) -> Vec<u8> {
    const SIGNED_DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
    const DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
    const VERSION_1: &[u8] = &[0x02, 0x01, 0x01];
    const EMPTY_SET: &[u8] = &[0x31, 0x00];
    let signed_data = [
        VERSION_1,
        EMPTY_SET, // digest algorithms
        &element(0x30, DATA),
        &element(0xa0, &certificates.concat()),
        EMPTY_SET, // signer infos
    ]
    .concat();
    element(0x30, &[SIGNED_DATA, &element(0xa0, &element(0x30, &signed_data))].concat())
}

/// Tag, length, value.
fn element(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut element = vec![tag];
    match significant.as_slice() {
        [] => element.push(0),
        [short] if *short < 0x80 => element.push(*short),
        // At most eight bytes of length.
        long => {
            element.push(0x80 | u8::try_from(long.len()).unwrap_or(8));
            element.extend_from_slice(long);
        }
    }
    element.extend_from_slice(value);
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_the_shortest() {
        assert_eq!(element(4, &[]), [4, 0]);
        assert_eq!(element(4, &[9; 0x7f])[..2], [4, 0x7f]);
        assert_eq!(element(4, &[9; 0x80])[..3], [4, 0x81, 0x80]);
        assert_eq!(element(4, &[9; 0x1234])[..4], [4, 0x82, 0x12, 0x34]);
    }

    #[test]
    #[ignore = "needs openssl"]
    fn openssl_reads_it() {
        use std::io::Write;
        use std::process::{Command, Stdio};

        use crate::authority::{Authority, Validity};

        let validity = Validity { not_before_ms: 0, not_after_ms: 4_000_000_000_000 };
        let authority = Authority::generate([1; 16], validity).unwrap();
        let mut openssl = Command::new("openssl")
            .args(["pkcs7", "-inform", "DER", "-print_certs"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        openssl.stdin.take().unwrap().write_all(&der(&[authority.certificate_der()])).unwrap();
        let output = openssl.wait_with_output().unwrap();
        assert!(output.status.success());
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.contains("BEGIN CERTIFICATE") && printed.contains("Farthing platform authority"));
    }
}
