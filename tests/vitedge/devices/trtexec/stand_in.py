# SPDX-License-Identifier: Apache-2.0
"""A stand-in for trtexec: it plays one version, and builds, times and computes nothing on a GPU.

It takes and refuses the options of its version, prints what that prints, and writes the files that it writes, as read
in NVIDIA/TensorRT, ``samples/common`` and ``samples/trtexec``, at release/8.2, 8.5, 8.6, 10.3, 10.13 and 11.1. An
engine is the ONNX file with a head; its outputs are ONNX Runtime's, its times are made up from the number of nodes, and
its layers are the products of the file. The environment makes it fail or wobble: see `FAULTS` and `Simulation`.

    STAND_IN_VERSION=8.6 python -m tests.vitedge.devices.trtexec.stand_in --onnx=model.onnx --saveEngine=model.engine
"""

from __future__ import annotations

import os
import sys

VERSIONS = {
    "8.2": (8201, ""),
    "8.5": (8502, ""),
    "8.6": (8601, ""),
    "10.3": (100300, ""),
    "10.13": (101300, " [b35]"),
    "11.1": (110100, " [b52]"),
}
"""Version to NVIDIA's number of it, and what the first line has behind it."""
FIRST = """
--allowGPUFallback --avgRuns --avgTiming --batch --best --buildOnly --calib --consistency --deploy --device --directIO
--dumpLayerInfo --dumpOutput --dumpProfile --dumpRefit --duration --explicitBatch --explicitPrecision --exportLayerInfo
--exportOutput --exportProfile --exportTimes --exposeDMA --fp16 --help --idleTime --inputIOFormats --int8 --iterations
--loadEngine --loadInputs --maxBatch --maxShapes --maxShapesCalib --minShapes --minShapesCalib --minTiming --model
--noBuilderCache --noDataTransfers --noTF32 --nvtxMode --onnx --optShapes --optShapesCalib --output --outputIOFormats
--percentile --plugins --precisionConstraints --profilingVerbosity --refit --restricted --safe --saveEngine
--separateProfileRun --shapes --sleepTime --sparsity --streams --tacticSources --threads --timeDeserialize --timeRefit
--timingCacheFile --uff --uffInput --uffNHWC --useCudaGraph --useDLACore --useManagedMemory --useSpinWait --verbose
--warmUp --workspace
"""
"""The options of 8.2."""
CHANGES: dict[str, tuple[str, str]] = {
    "8.5": (
        "--heuristic --layerOutputTypes --layerPrecisions --memPoolSize --persistentCacheRatio --preview",
        "",
    ),
    "8.6": (
        "--buildDLAStandalone --builderOptimizationLevel --dumpRawBindingsToFile --dynamicPlugins "
        "--excludeLeanRuntime --fp8 --hardwareCompatibilityLevel --ignoreParsedPluginLibs --infStreams "
        "--layerDeviceTypes --leanDLLPath --maxAuxStreams --nativeInstanceNorm --ni --setPluginsToSerialize "
        "--skipInference --staticPlugins --tempdir --tempfileControls --useRuntime --vc --versionCompatible",
        "",
    ),
    "10.3": (
        "--allocationStrategy --allowWeightStreaming --bf16 --calibProfile --dumpOptimizationProfile "
        "--errorOnTimingCacheMiss --getPlanVersionOnly --int4 --markDebug --noCompilationCache --pi "
        "--pluginInstanceNorm --profile --runtimePlatform --saveDebugTensors --stripAllWeights --stripWeights "
        "--stronglyTyped --useProfile --weightStreamingBudget --weightless",
        "--batch --buildOnly --deploy --explicitBatch --explicitPrecision --heuristic --maxBatch --minTiming "
        "--model --nativeInstanceNorm --ni --nvtxMode --output --uff --uffInput --uffNHWC --workspace",
    ),
    "10.13": (
        "--asyncFileReader --distributiveIndependence --dumpKernelText --l2LimitForTiling "
        "--markUnfusedTensorsAsDebugTensors --maxTactics --monitorMemory --remoteAutoTuningConfig "
        "--safetyPlugins --saveAllDebugTensors --tilingOptimizationLevel --uint8AsymmetricQuantizationDLA",
        "",
    ),
    "11.1": (
        "--accuracyAlgorithm --accuracyThreshold --adjustForDLA --atol --continue --cpuOnly "
        "--decomposableAttentions --dryRun --enablePluginOverride --helpBuildRoute --includeDataTransfers "
        "--loadRefOutputs --noCudaGraph --noSpinWait --refPair --refitFromOnnx --reportCapabilityDLA --rtol "
        "--saveAllEngines --setBuildRoute --tuneBuildRouteFile --tuneBuildRoutes --tuningCacheFile "
        "--tuningResultFile --tuningSearch --tuningTimeOut",
        "--best --bf16 --calib --calibProfile --fp16 --fp8 --int4 --int8 --layerOutputTypes --layerPrecisions "
        "--maxShapesCalib --minShapesCalib --optShapesCalib --precisionConstraints --restricted --weightless",
    ),
}
"""Version to the options that it adds and removes."""
DEPRECATED = {
    "--useCudaGraph": "--useCudaGraph is deprecated. CUDA graph is now enabled by default.",
    "--useSpinWait": "--useSpinWait is deprecated. Spin wait is now enabled by default.",
    "--noDataTransfers": "--noDataTransfers is deprecated. Data transfers are now disabled by default.",
    "--separateProfileRun": "--separateProfileRun is deprecated. Separate profile run is now always enabled.",
    "--stronglyTyped": "",
}
"""Options that 11 takes and does without, to its warning."""
FAULTS = ("parser", "builder", "killed", "silent", "no-gpu", "cut", "library")
"""Values of STAND_IN_FAULT: an operator unknown, no kernel found, a signal, no last line, no GPU, a file cut short, a
library missing."""


class Refusal(Exception):  # noqa: N818 - what trtexec does
    """An error that trtexec reports."""


class Program:
    """One run."""

    def __init__(self, version: str, arguments: list[str]) -> None:
        self.version = version
        self.at = list(VERSIONS).index(version)
        number, build = VERSIONS[version]
        self.name = f"TensorRT.trtexec [TensorRT v{number}]{build} # {' '.join([sys.argv[0], *arguments])}"
        pairs = (argument.partition("=") for argument in arguments)
        self.given = {name: value for name, _, value in pairs}
        self.fault = os.environ.get("STAND_IN_FAULT", "")

    def refused(self, text: str) -> Refusal:
        return Refusal(text)

    def since(self, version: str) -> bool:
        return self.at >= list(VERSIONS).index(version)

    def options(self) -> list[str]:
        found = FIRST.split()
        for version, (added, removed) in CHANGES.items():
            if self.since(version):
                found = [name for name in (*found, *added.split()) if name not in removed.split()]
        return sorted(found)

    def say(self, severity: str, text: str) -> None:
        stream = sys.stdout if severity in "IV" else sys.stderr
        stream.write(f"[02/03/2026-04:05:06] [{severity}] {text}\n")

    def frame(self, word: str) -> None:
        sys.stdout.write(f"&&&& {word} {self.name}\n")

    def run(self) -> int:
        if self.fault == "library":
            sys.stderr.write(
                "trtexec: error while loading shared libraries: libnvinfer.so: cannot open shared object\n"
            )
            return 127
        self.frame("RUNNING")
        if "--help" in self.given:
            self.help()
            return 0
        try:
            self.checked()
            if not self.device():
                return 1
            self.work()
        except Refusal as error:
            for line in str(error).splitlines():
                self.say("E", line)
            self.frame("FAILED")
            return 1
        if self.fault != "silent":
            self.frame("PASSED")
        return 0

    def help(self) -> None:
        sys.stdout.write("=== Options ===\n")
        for name in self.options():
            if name == "--buildOnly" and self.since("8.6"):
                continue  # taken there, and not listed
            if name == "--vc":
                continue  # listed as the second name of another
            names = {"--versionCompatible": "--versionCompatible, --vc", "--help": "-h, --help"}.get(name, name)
            mark = "[Deprecated] " if self.since("11.1") and name in DEPRECATED else ""
            sys.stdout.write(f"  {names:<35}{mark}an option, which goes with --onnx\n")
        if self.since("8.6"):
            same = ' | "sameComputeCapability"' if self.since("10.13") else ""
            sys.stdout.write(f'{"":>40}mode ::= "none" | "ampere+"{same}\n')
        if not self.since("11.1"):
            sys.stdout.write(f'{"":>40}lib ::= "CUBLAS"|"CUBLAS_LT"|"CUDNN"\n')

    def checked(self) -> None:
        if "--loadEngine" in self.given and "--saveEngine" in self.given:
            raise Refusal("Incompatible load and save engine options selected")
        if not {"--loadEngine", "--onnx"} & self.given.keys():
            raise Refusal("Model missing or format not recognized")
        unknown = [name for name in self.given if name not in self.options()]
        if unknown:
            self.help()
            raise Refusal("\n".join(f"Unknown option: {name} {self.given[name]}" for name in unknown))
        for name, text in DEPRECATED.items():
            if self.since("11.1") and name in self.given and text:
                self.say("W", text)
        if self.since("8.6") and "--buildOnly" in self.given:
            self.say("W", "--buildOnly flag has been deprecated by --skipInference flag.")
        if self.since("8.5") and "--workspace" in self.given:
            self.say("W", "--workspace flag has been deprecated by --memPoolSize flag.")

    def device(self) -> bool:
        self.say("I", "=== Device Information ===")
        if self.fault == "no-gpu":
            self.say("I", "Cannot find any available devices (GPUs)!")
            return False
        self.say("I", "Selected Device: " + ("Orin" if self.since("8.6") else "NVIDIA Tegra X1"))
        self.say("I", "Compute Capability: " + ("8.7" if self.since("8.6") else "5.3"))
        self.say("I", "SMs: 8")
        self.say("I", "")
        return True

    def work(self) -> None:
        from tests.vitedge.devices.trtexec.stand_in_engine import Engine, build, infer  # noqa: PLC0415 - to say no sooner

        skips = {"--skipInference", "--buildOnly"} & self.given.keys()
        if "--onnx" in self.given:
            engine = build(self)
            self.say("I", "Engine built in 12.5 sec.")
        else:
            engine = Engine.read(self)
            self.say("I", "Engine loaded in 0.25 sec." if self.since("8.5") else "Engine loaded in 0.4 sec.")
            if self.since("8.5"):
                self.say("I", "Engine deserialized in 0.15 sec.")
        if "--exportLayerInfo" in self.given and (skips or not self.since("8.5")):
            engine.write_layers(self, has_context=False)
        if skips:
            return
        infer(self, engine)


def main() -> None:
    sys.exit(Program(os.environ["STAND_IN_VERSION"], sys.argv[1:]).run())


if __name__ == "__main__":
    main()
