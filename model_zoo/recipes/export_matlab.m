% Write shapes-net-matlab.onnx in MATLAB: the script that a MATLAB user runs.
%
% NOT RUN BY US: MATLAB was not at hand. shapes-net-matlab.onnx in the zoo was written by export_matlab.py after the
% same conventions; this script says how the same network is built and exported where MATLAB is. Please report what
% differs.
%
% Needs: MATLAB R2024a or later, Deep Learning Toolbox, and the support package "Deep Learning Toolbox Converter for
% ONNX Model Format" (Home > Add-Ons > Get Add-Ons).
%
% First, in a shell:   python export_matlab.py --weights shapes-net.mat
% Then, in MATLAB:     export_matlab

w = load("shapes-net.mat");
average = single(131.5);    % of all pixels and colours of the training scenes, in 0..255
deviation = single(64.8);

% Raw pixels come in. The weights were trained on pixels in [0, 1], so that the first convolution takes the
% normalisation back: its weights are scaled, its bias holds the mean, and black, not grey, lies around the picture.
stem = permute(w.stem_0_weight, [3 4 2 1]);    % (out, in, h, w) -> (h, w, in, out)
stemBias = sum(stem, [1 2 3]) * average / 255;
first = convolution2dLayer(3, size(stem, 4), Stride=2, Padding=1, PaddingValue=-average / deviation, Name="conv_1", ...
    Weights=stem * deviation / 255, Bias=reshape(stemBias, 1, 1, []));

net = dlnetwork;
net = addLayers(net, [
    imageInputLayer([112 112 3], Name="imageinput", Normalization="zscore", ...
        Mean=average * ones(112, 112, 3, "single"), StandardDeviation=deviation)
    first
    batchnorm(w, "stem", 1)
    reluLayer(Name="relu_1")
    maxPooling2dLayer(3, Stride=2, Padding=1, Name="maxpool_1")
    conv(w, "residual1_first_0", 2)
    batchnorm(w, "residual1_first_0", 2)
    reluLayer(Name="relu_2")
    conv(w, "residual1_second", 3)
    batchnorm(w, "residual1_second", 3)
    additionLayer(2, Name="addition_1")
    reluLayer(Name="relu_3")
    conv(w, "widen", 4)
    batchnorm(w, "widen", 4)
    reluLayer(Name="relu_4")
    maxPooling2dLayer(2, Stride=2, Name="maxpool_2")
    conv(w, "narrow", 5)
    batchnorm(w, "narrow", 5)
    depthConcatenationLayer(2, Name="depthcat")
    reluLayer(Name="relu_5")
    conv(w, "residual2_first_0", 7)
    batchnorm(w, "residual2_first_0", 7)
    reluLayer(Name="relu_6")
    conv(w, "residual2_second", 8)
    batchnorm(w, "residual2_second", 8)
    additionLayer(2, Name="addition_2")
    reluLayer(Name="relu_7")
    globalAveragePooling2dLayer(Name="gapool")
    fullyConnectedLayer(7, Name="fc", Weights=w.head_weight, Bias=w.head_bias(:))
    softmaxLayer(Name="softmax")]);
net = addLayers(net, [conv(w, "broad", 6); batchnorm(w, "broad", 6)]);

net = connectLayers(net, "maxpool_1", "addition_1/in2");
net = connectLayers(net, "maxpool_2", "conv_6");
net = connectLayers(net, "batchnorm_6", "depthcat/in2");
net = connectLayers(net, "relu_5", "addition_2/in2");
net = initialize(net);

exportONNXNetwork(net, "shapes-net-matlab.onnx", OpsetVersion=14);

function layer = conv(w, name, number)
% Without a bias of its own: a BatchNorm follows.
kernel = permute(w.(name + "_0_weight"), [3 4 2 1]);
layer = convolution2dLayer(size(kernel, 1), size(kernel, 4), Padding="same", Name="conv_" + number, ...
    Weights=kernel, Bias=zeros(1, 1, size(kernel, 4), "single"));
end

function layer = batchnorm(w, name, number)
channels = @(key) reshape(w.(name + "_1_" + key), 1, 1, []);
layer = batchNormalizationLayer(Name="batchnorm_" + number, Epsilon=1e-5, Scale=channels("weight"), ...
    Offset=channels("bias"), TrainedMean=channels("running_mean"), TrainedVariance=channels("running_var"));
end
