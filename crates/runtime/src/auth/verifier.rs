//! Checks tokens: signature, issuer, audience, times.

use std::{collections::HashMap, sync::Arc};

use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use parking_lot::Mutex;

use super::{
    AuthArgs, AuthError, Caller,
    caller::Claims,
    crypto,
    keys::{Keys, NoKey},
};
use crate::{clock, tls::Tls};

/// Longest token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Most tokens whose check is remembered, in each of two halves: a caller sends the same one again and again, and checking
/// a signature costs more than many a request.
const MAX_REMEMBERED: usize = 1_024;

/// Why a token is not good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not a JWT, or too long for one.
    #[error("the token is not a JWT of at most {MAX_TOKEN_BYTES} bytes")]
    Malformed,
    /// Its algorithm is not one of a public key.
    #[error("the token's algorithm must be RS256, ES256 or EdDSA")]
    Algorithm,
    /// The issuer has no such key.
    #[error("the token is signed with a key that its issuer does not have")]
    UnknownKey,
    /// The signature is another's.
    #[error("the token's signature is wrong")]
    Signature,
    /// It is too late.
    #[error("the token has expired")]
    Expired,
    /// It is too early.
    #[error("the token is not valid yet")]
    NotYet,
    /// Another issuer.
    #[error("the token is of another issuer")]
    Issuer,
    /// It is for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// A claim is missing or of another type.
    #[error("the token's claim {0} is missing or malformed")]
    Claim(String),
    /// Nobody can say whether it is good: the issuer could not be asked for its keys since the start.
    #[error("the issuer's keys are not known yet")]
    NoKeysYet,
}

impl Refused {
    /// Whether its signature had to be checked to find that out.
    pub(super) fn cost_a_check(&self) -> bool {
        match self {
            // How often an issuer is asked for its keys has bounds of its own.
            Self::Malformed | Self::Algorithm | Self::UnknownKey | Self::NoKeysYet => false,
            Self::Signature | Self::Expired | Self::NotYet => true,
            Self::Issuer | Self::Audience | Self::Claim(_) => true,
        }
    }
}

/// Checks tokens of one issuer for one audience.
#[derive(Debug)]
pub(super) struct Verifier {
    keys: Arc<Keys>,
    validation: Validation,
    remembered: Mutex<Remembered>,
}

/// Two halves, so that many new tokens push out those that nobody sends any more, and never all at once.
#[derive(Debug, Default)]
struct Remembered {
    /// Which keys they were checked with.
    generation: u64,
    /// Those that were sent since `old` was full.
    young: HashMap<String, Arc<Caller>>,
    old: HashMap<String, Arc<Caller>>,
}

impl Remembered {
    fn recall(&mut self, token: &str) -> Option<Arc<Caller>> {
        if let Some(caller) = self.young.get(token) {
            return Some(caller.clone());
        }
        let (token, caller) = self.old.remove_entry(token)?;
        self.keep(token, caller.clone());
        Some(caller)
    }

    fn keep(&mut self, token: String, caller: Arc<Caller>) {
        if self.young.len() >= MAX_REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, caller);
    }
}

impl Verifier {
    pub(super) fn new(args: &AuthArgs, issuer: &str, tls: &Tls) -> Result<Self, AuthError> {
        crypto::install();
        // Which algorithm is good is the key's matter.
        let mut validation = Validation::new(crypto::ALGORITHMS[0]);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[&args.auth_audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        validation.leeway = args.auth_clock_skew;
        let keys = Arc::new(Keys::new(args, issuer, tls)?);
        Ok(Self { keys, validation, remembered: Mutex::default() })
    }

    /// Who has this token, if that was found out before and is still so. That costs next to nothing.
    pub(super) fn known(&self, token: &str) -> Option<Arc<Caller>> {
        self.keys.keep_fresh();
        (token.len() <= MAX_TOKEN_BYTES).then(|| self.recall(token, self.keys.generation()))?
    }

    /// Who has this token, by its signature.
    pub(super) async fn verify(&self, token: &str) -> Result<Arc<Caller>, Refused> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refused::Malformed);
        }
        let generation = self.keys.generation();
        let header = decode_header(token).map_err(|error| refused(error.kind()))?;
        if !crypto::ALGORITHMS.contains(&header.alg) {
            return Err(Refused::Algorithm);
        }
        let found = self.keys.find(header.kid.as_deref(), header.alg).await;
        let keys = found.map_err(|none| match none {
            NoKey::Unknown => Refused::UnknownKey,
            NoKey::Unavailable => Refused::NoKeysYet,
        })?;
        let mut refusal = Refused::UnknownKey;
        for key in keys {
            let validation =
                Validation { algorithms: vec![key.algorithm], ..self.validation.clone() };
            match decode::<Claims>(token, &key.decoding, &validation) {
                Ok(data) => {
                    let caller = Arc::new(Caller::from(data.claims));
                    self.remember(token, caller.clone(), generation);
                    return Ok(caller);
                }
                Err(error) => refusal = refused(error.kind()),
            }
        }
        Err(refusal)
    }

    fn recall(&self, token: &str, generation: u64) -> Option<Arc<Caller>> {
        let mut remembered = self.remembered.lock();
        if remembered.generation != generation {
            return None;
        }
        let caller = remembered.recall(token)?;
        let now = clock::now().unix_micros() as f64 / 1e6;
        (now < caller.expires + self.validation.leeway as f64).then_some(caller)
    }

    fn remember(&self, token: &str, caller: Arc<Caller>, generation: u64) {
        let mut remembered = self.remembered.lock();
        if remembered.generation != generation {
            *remembered = Remembered { generation, ..Remembered::default() };
        }
        remembered.keep(token.to_owned(), caller);
    }
}

fn refused(kind: &ErrorKind) -> Refused {
    match kind {
        ErrorKind::InvalidSignature => Refused::Signature,
        ErrorKind::ExpiredSignature => Refused::Expired,
        ErrorKind::ImmatureSignature => Refused::NotYet,
        ErrorKind::InvalidIssuer => Refused::Issuer,
        ErrorKind::InvalidAudience => Refused::Audience,
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            Refused::Claim(claim.clone())
        }
        ErrorKind::InvalidAlgorithm
        | ErrorKind::InvalidAlgorithmName
        | ErrorKind::UnsupportedAlgorithm => Refused::Algorithm,
        _ => Refused::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_use_is_remembered_however_many_new_ones_come() {
        let mut remembered = Remembered::default();
        let claims = serde_json::json!({ "sub": "kim", "exp": 1 });
        let caller = Arc::new(Caller::from(serde_json::from_value::<Claims>(claims).unwrap()));
        remembered.keep("used".to_owned(), caller.clone());
        for n in 0..10 * MAX_REMEMBERED {
            remembered.keep(n.to_string(), caller.clone());
            if n % (MAX_REMEMBERED / 2) == 0 {
                assert!(remembered.recall("used").is_some(), "after {n}");
            }
        }
        assert!(remembered.recall("0").is_none());
        assert!(remembered.young.len() + remembered.old.len() <= 2 * MAX_REMEMBERED);
    }
}
