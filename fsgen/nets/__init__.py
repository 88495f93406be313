"""Plain torch networks: layers, encoders and decoders of images."""

from fsgen.nets.embedding import ConvEmbedding, image_embedding
from fsgen.nets.gated import Copies, GatedPixelCNN
from fsgen.nets.grids import GridDecoder, GridEncoder, MapDecoder, MapEncoder
from fsgen.nets.images import image_decoder, image_encoder
from fsgen.nets.layers import Affine, GatedUnit, dense, he_normal, join, mlp, over_images, prelu
from fsgen.nets.refinement import PixelRefinement, refinement, with_refinement
from fsgen.nets.residual import ResidualDecoder, ResidualEncoder
from fsgen.nets.sections import SectionDecoder, SectionEncoder, section_sizes
from fsgen.nets.widening import widened

__all__ = [
    "Affine",
    "ConvEmbedding",
    "Copies",
    "GatedPixelCNN",
    "GatedUnit",
    "GridDecoder",
    "GridEncoder",
    "MapDecoder",
    "MapEncoder",
    "PixelRefinement",
    "ResidualDecoder",
    "ResidualEncoder",
    "SectionDecoder",
    "SectionEncoder",
    "dense",
    "he_normal",
    "image_decoder",
    "image_embedding",
    "image_encoder",
    "join",
    "mlp",
    "over_images",
    "prelu",
    "refinement",
    "section_sizes",
    "widened",
    "with_refinement",
]
