"""Kinds of operations by what they are to relevance.

The names are those that `Recording.kind_of` gives: lower case, without underscores, so that nn.AvgPool2d, F.avg_pool2d
and a method of that name would be one.
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


LAYERS = _names("conv1d conv2d conv3d linear")
BATCH_NORMS = _names("batchnorm batchnorm1d batchnorm2d batchnorm3d syncbatchnorm")
NORMALIZATIONS = _names("layernorm groupnorm")
ADDITIONS = _names("add sub subtract")
DIVISIONS = _names("div divide truediv")
PRODUCTS = _names("mul multiply") | DIVISIONS
MATRIX_PRODUCTS = _names("matmul mm bmm einsum")
ATTENTION = _names("scaleddotproductattention multiheadattention")
SUMS = _names(
    "avgpool1d avgpool2d adaptiveavgpool1d adaptiveavgpool2d mean sum interpolate upsample upsamplingbilinear2d "
    "upsamplingnearest2d"
)
# Each output has one input. Local response norm is one of them once its denominator is taken as a constant.
ELEMENTWISE = _names(
    "relu relu6 leakyrelu prelu rrelu elu celu selu gelu silu mish sigmoid logsigmoid hardsigmoid hardswish hardtanh "
    "tanh tanhshrink hardshrink softshrink softplus softsign threshold clamp clampmin clampmax clip abs neg exp log "
    "sqrt square pow reciprocal rsqrt erf dropout dropout1d dropout2d dropout3d alphadropout featurealphadropout "
    "stochasticdepth detach localresponsenorm"
)
# Each output is a copy of one input or a constant.
COPIES = _names(
    "identity flatten unflatten reshape view viewas permute transpose t movedim swapaxes swapdims squeeze unsqueeze "
    "expand expandas repeat repeatinterleave tile contiguous clone to float double type typeas cat concat concatenate "
    "stack pad zeropad2d constantpad2d reflectionpad2d replicationpad2d circularpad2d getitem select narrow "
    "indexselect chunk split tensorsplit unbind unfold roll flip channelshuffle pixelshuffle pixelunshuffle"
)
# The largest input takes all.
POOLS = _names("maxpool1d maxpool2d adaptivemaxpool1d adaptivemaxpool2d amax maximum")
WITH_RULE = LAYERS | BATCH_NORMS | NORMALIZATIONS | ADDITIONS | PRODUCTS | MATRIX_PRODUCTS | ATTENTION | SUMS
WITH_RULE |= ELEMENTWISE | COPIES | POOLS
# Where biases, stabilizers and constants can keep relevance.
ABSORBING = WITH_RULE - ELEMENTWISE - PRODUCTS - POOLS - COPIES | _names("cat concat concatenate stack pad")
# What may lie between the images and a layer that is still the first.
BEFORE_FIRST_LAYER = ADDITIONS | BATCH_NORMS | COPIES | PRODUCTS

# How surely the output of an operation is a gate or a scale for what it is multiplied with.
GATES = dict.fromkeys(_names("sigmoid hardsigmoid softmax tanh erf rsqrt reciprocal"), 2)
GATES |= dict.fromkeys(_names("relu6 hardtanh clamp"), 1)
# What a gate may go through on its way to the product.
KEEP_GATES = ADDITIONS | PRODUCTS
KEEP_GATES |= _names("flatten reshape view permute transpose squeeze unsqueeze expand expandas repeat interpolate")
KEEP_GATES |= _names("getitem identity dropout to contiguous")
