// SPDX-License-Identifier: Apache-2.0
// Runs the Core ML package of this folder on a picture, and prints its likeliest classes. On a Mac:
//
//     swift Infer.swift PICTURE
//
// The functions do the steps of manifest.json, and can be taken over into an app, where Xcode compiles the package.
// Core Graphics resizes with a filter of its own, so the outputs differ a little from those of Pillow.

import CoreGraphics
import CoreML
import CoreVideo
import Foundation
import ImageIO

// <bundle> written by vitedge, as in manifest.json
let package = "model.mlpackage"
let input = "image"
let takesImage = false  // an image of Core ML; else a multi-array
let (batch, channels, height, width) = (1, 3, 224, 224)
let rotates = true  // by the EXIF tag
let edge = "short"  // short: the picture covers the height and width below, long: it fits into them, both: it gets them
let (resizedHeight, resizedWidth) = (256.0, 256.0)
let fill: [CGFloat] = [0, 0, 0]  // around a picture that is smaller than the input
let reversed = false  // blue, green, red
let divisor: Float = 255
let mean: [Float] = [0.485, 0.456, 0.406]
let std: [Float] = [0.229, 0.224, 0.225]
// </bundle>

struct Stop: Error, CustomStringConvertible {
    let description: String
}

/// The picture of a file, upright where the model was trained on upright ones.
func picture(at url: URL) throws -> CGImage {
    let options: [CFString: Any] = [
        kCGImageSourceCreateThumbnailFromImageAlways: true,  // of full size: no largest size is given
        kCGImageSourceCreateThumbnailWithTransform: rotates,
    ]
    guard let source = CGImageSourceCreateWithURL(url as CFURL, nil),
        let found = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary)
    else { throw Stop(description: "\(url.path) is no picture that can be read.") }
    return found
}

/// The pixels that the model sees: the picture is resized, and drawn around the centre.
func prepared(_ picture: CGImage) throws -> CGContext {
    let grey = channels == 1
    let space = grey ? CGColorSpaceCreateDeviceGray() : CGColorSpace(name: CGColorSpace.sRGB)!
    let alpha = grey ? CGImageAlphaInfo.none : CGImageAlphaInfo.noneSkipLast
    guard
        let context = CGContext(
            data: nil, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 0, space: space,
            bitmapInfo: alpha.rawValue),
        let around = CGColor(colorSpace: space, components: fill + [1]),
        let white = CGColor(colorSpace: space, components: fill.map { _ in 1 } + [1])
    else { throw Stop(description: "There is no memory for \(width) x \(height) pixels.") }
    let whole = CGRect(x: 0, y: 0, width: width, height: height)
    let across = resizedWidth / Double(picture.width)
    let down = resizedHeight / Double(picture.height)
    let one = edge == "short" ? max(across, down) : min(across, down)
    let size = CGSize(
        width: Double(picture.width) * (edge == "both" ? across : one),
        height: Double(picture.height) * (edge == "both" ? down : one))
    let place = CGRect(
        x: (Double(width) - size.width) / 2, y: (Double(height) - size.height) / 2, width: size.width,
        height: size.height)
    context.setFillColor(around)
    context.fill(whole)
    context.setFillColor(white)  // under what is transparent
    context.fill(place.intersection(whole))
    context.interpolationQuality = .high
    context.draw(picture, in: place)
    return context
}

/// The pixels as an image of Core ML, which the model scales and normalizes itself.
func image(_ context: CGContext) throws -> MLFeatureValue {
    guard let drawn = context.makeImage() else { throw Stop(description: "The pixels cannot be read.") }
    let format = channels == 1 ? kCVPixelFormatType_OneComponent8 : kCVPixelFormatType_32BGRA
    return try MLFeatureValue(
        cgImage: drawn, pixelsWide: width, pixelsHigh: height, pixelFormatType: format, options: nil)
}

/// The pixels as a multi-array (batch, channels, height, width), scaled and normalized.
func array(_ context: CGContext) throws -> MLFeatureValue {
    let shape = [batch, channels, height, width].map { NSNumber(value: $0) }
    let values = try MLMultiArray(shape: shape, dataType: .float32)
    let steps = values.strides.map { $0.intValue }
    let target = values.dataPointer.assumingMemoryBound(to: Float.self)
    guard let bytes = context.data?.assumingMemoryBound(to: UInt8.self) else {
        throw Stop(description: "The pixels cannot be read.")
    }
    let pixel = channels == 1 ? 1 : 4
    for example in 0..<batch {
        for channel in 0..<channels {
            let source = reversed ? channels - 1 - channel : channel
            for y in 0..<height {
                for x in 0..<width {
                    let value = Float(bytes[y * context.bytesPerRow + x * pixel + source]) / divisor
                    target[example * steps[0] + channel * steps[1] + y * steps[2] + x * steps[3]] =
                        (value - mean[channel]) / std[channel]
                }
            }
        }
    }
    return MLFeatureValue(multiArray: values)
}

func show(_ scores: MLMultiArray, _ labels: [String]) {
    let count = scores.shape[1].intValue
    let found = (0..<count).map { scores[[0, NSNumber(value: $0)]].doubleValue }
    let total = found.map { exp($0 - found.max()!) }.reduce(0, +)
    for number in (0..<count).sorted(by: { found[$0] > found[$1] }).prefix(5) {
        let share = 100 * exp(found[number] - found.max()!) / total
        let name = labels.count == count ? labels[number] : "class"
        print(String(format: "  %6.2f%%  %@ (%d)", share, name, number))
    }
}

guard CommandLine.arguments.count == 2 else { throw Stop(description: "type: swift Infer.swift PICTURE") }
let folder = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
let text = try? String(contentsOf: folder.appendingPathComponent("labels.txt"), encoding: .utf8)
let labels = text?.components(separatedBy: "\n").dropLast().map { $0 } ?? []
let model = try MLModel(contentsOf: MLModel.compileModel(at: folder.appendingPathComponent(package)))
let pixels = try prepared(picture(at: URL(fileURLWithPath: CommandLine.arguments[1])))
let value = try takesImage ? image(pixels) : array(pixels)
let outputs = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: [input: value]))
for name in outputs.featureNames.sorted() {
    guard let found = outputs.featureValue(for: name)?.multiArrayValue else { continue }  // a classifier's label
    print("\(name) \(found.shape)")
    if name == "logits" { show(found, labels) }
}
