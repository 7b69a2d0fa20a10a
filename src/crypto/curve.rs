//! What encryption and key exchange ask of the curve, constant time in every scalar.

use sm2::elliptic_curve::PrimeField as _;
use sm2::elliptic_curve::group::Group as _;
use sm2::elliptic_curve::sec1::{FromSec1Point as _, ToSec1Point as _};
use sm2::{AffinePoint, ProjectivePoint, Scalar};

fn scalar(bytes: &[u8; 32]) -> Option<Scalar> {
    Option::from(Scalar::from_repr((*bytes).into()))
}

fn point(bytes: &[u8; 64]) -> Option<ProjectivePoint> {
    let encoded = sm2::Sec1Point::from_untagged_bytes(bytes.into());
    Option::<AffinePoint>::from(AffinePoint::from_sec1_point(&encoded)).map(ProjectivePoint::from)
}

fn encode(point: ProjectivePoint) -> Option<[u8; 64]> {
    if bool::from(point.is_identity()) {
        return None;
    }
    point.to_affine().to_sec1_point(false).as_bytes().get(1..)?.try_into().ok()
}

pub(crate) fn multiply(
    _: hufu_kernels::Backend,
    number: &[u8; 32],
    at: &[u8; 64],
) -> Option<[u8; 64]> {
    encode(point(at)? * scalar(number)?)
}

pub(crate) fn multiply_base(_: hufu_kernels::Backend, number: &[u8; 32]) -> Option<[u8; 64]> {
    encode(ProjectivePoint::generator() * scalar(number)?)
}

pub(crate) fn add_points(p: &[u8; 64], q: &[u8; 64]) -> Option<[u8; 64]> {
    encode(point(p)? + point(q)?)
}

pub(crate) fn scalar_multiply_add(a: &[u8; 32], b: &[u8; 32], c: &[u8; 32]) -> Option<[u8; 32]> {
    Some((scalar(a)? * scalar(b)? + scalar(c)?).to_repr().into())
}
