//! The first contact with a platform: the only thing known of it is the fingerprint in the claim code.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use schemas::claim::FINGERPRINT_BYTES;
use sha2::{Digest, Sha256};

/// Certificates of a presented chain that are looked at.
const CHAIN_CERTIFICATES: usize = 8;

/// TLS that trusts the one authority with this fingerprint.
pub(super) fn config(
    fingerprint: &[u8; FINGERPRINT_BYTES],
    clock: Arc<dyn TimeProvider>,
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = FingerprintVerifier { fingerprint: *fingerprint, provider: Arc::clone(&provider) };
    Ok(ClientConfig::builder_with_details(provider, clock)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// The authority in a presented chain. The first certificate is the server's own and can't be it.
pub(super) fn find_authority<'a, 'b>(
    chain: &'a [CertificateDer<'b>],
    fingerprint: &[u8; FINGERPRINT_BYTES],
) -> Option<&'a CertificateDer<'b>> {
    let above = chain.iter().take(CHAIN_CERTIFICATES).skip(1);
    above.into_iter().find(|certificate| Sha256::digest(certificate.as_ref()).starts_with(fingerprint))
}

#[derive(Debug)]
struct FingerprintVerifier {
    fingerprint: [u8; FINGERPRINT_BYTES],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for FingerprintVerifier {
    /// Finds the authority by its fingerprint, then verifies as if it had been known all along: signatures,
    /// name or address, time, use.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(end_entity).chain(intermediates).cloned().collect();
        let authority = find_authority(&chain, &self.fingerprint)
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
