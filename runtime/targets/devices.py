"""Table of devices by name, with figures from the vendor's data sheets.

Vendors often print rates with 2:4 structured sparsity, which no graph here uses. Such rates are halved, and the source
notes it. GeForce devices multiply fp16, bf16 and fp8 at half the rate when they accumulate in fp32, as the graphs here
do, so that rate is used. Figures were checked against texts that quote the named document; "from memory" marks those
found in no text at hand. The number of multiprocessors and the clock of the tensor peak are from memory; a test checks
that they give the sheet's fp32 rate within 13 %.
"""

from internvl_edge.runtime.targets.data_sheet import DataSheet, Target

TARGETS = (
    Target(
        name="orin-nano-8gb",
        sm=87,
        sheet=DataSheet(
            memory_gib=8,
            bandwidth_gb_s=102.4,
            multiprocessors=8,
            clock_ghz=1.02,
            tflops={"fp32": 2.1, "fp16": 16.7, "bf16": 16.7, "int8": 33.4},
            source="Jetson Orin Nano Super Developer Kit data sheet: 67 sparse INT8 TOPS, halved; MAXN_SUPER, 1.02 "
            "GHz; fp16 and bf16 half of int8, fp32 from cores and clock",
        ),
    ),
    Target(
        name="orin-nx-16gb",
        sm=87,
        sheet=DataSheet(
            memory_gib=16,
            bandwidth_gb_s=102.4,
            multiprocessors=8,
            clock_ghz=1.173,
            tflops={"fp32": 2.4, "fp16": 19.2, "bf16": 19.2, "int8": 38.4},
            source="Jetson Orin NX Series data sheet: 157 sparse INT8 TOPS, of which the GPU has 77, halved, and the "
            "DLAs the rest; MAXN_SUPER, 1.173 GHz; from memory, the GPU's part agrees with 4096 operations per "
            "SM and clock",
        ),
    ),
    Target(
        name="agx-orin-64gb",
        sm=87,
        sheet=DataSheet(
            memory_gib=64,
            bandwidth_gb_s=204.8,
            multiprocessors=16,
            clock_ghz=1.3,
            tflops={"fp32": 5.3, "fp16": 42.5, "bf16": 42.5, "int8": 85},
            source="Jetson AGX Orin Series Technical Brief: 170 sparse INT8 TOPS of the GPU alone, halved; MAXN; fp16 "
            "and bf16 half of int8",
        ),
    ),
    Target(
        name="agx-thor",
        sm=110,
        sheet=DataSheet(
            memory_gib=128,
            bandwidth_gb_s=273,
            multiprocessors=20,
            clock_ghz=1.575,
            tflops={"fp32": 8.1, "fp16": 258, "bf16": 258, "fp8": 517, "int8": 517},
            source="Jetson Thor Series Modules data sheet (T5000): 2070 sparse FP4 TFLOPS, halved per step of "
            "precision and for sparsity; fp32 from cores and clock; the FP4 figure confirmed, the rest from "
            "memory",
        ),
    ),
    Target(
        name="t4",
        sm=75,
        driver_name=r"(Tesla|NVIDIA) T4",
        sheet=DataSheet(
            memory_gib=16,
            bandwidth_gb_s=320,
            multiprocessors=40,
            clock_ghz=1.59,
            tflops={"fp32": 8.1, "fp16": 65, "int8": 130},
            source="NVIDIA T4 Tensor Core GPU data sheet",
        ),
    ),
    Target(
        name="a100",
        sm=80,
        driver_name=r"(NVIDIA )?A100-SXM4-80GB",
        sheet=DataSheet(
            memory_gib=80,
            bandwidth_gb_s=2039,
            multiprocessors=108,
            clock_ghz=1.41,
            tflops={"fp32": 19.5, "fp16": 312, "bf16": 312, "int8": 624},
            source="NVIDIA A100 Tensor Core GPU data sheet, 80 GB SXM (PCIe: 1935 GB/s; 40 GB: 1555 GB/s)",
        ),
    ),
    Target(
        name="a10",
        sm=86,
        driver_name=r"NVIDIA A10",
        sheet=DataSheet(
            memory_gib=24,
            bandwidth_gb_s=600,
            multiprocessors=72,
            clock_ghz=1.695,
            tflops={"fp32": 31.2, "fp16": 125, "bf16": 125, "int8": 250},
            source="NVIDIA A10 Tensor Core GPU data sheet, dense figures; tensor rates from memory",
        ),
    ),
    Target(
        name="rtx-3090",
        sm=86,
        driver_name=r"(NVIDIA )?GeForce RTX 3090",
        sheet=DataSheet(
            memory_gib=24,
            bandwidth_gb_s=936,
            multiprocessors=82,
            clock_ghz=1.695,
            tflops={"fp32": 35.6, "fp16": 71, "bf16": 71, "int8": 284},
            source="NVIDIA Ampere GA102 GPU Architecture, appendix A, dense, fp32 accumulation; tensor rates from "
            "memory",
        ),
    ),
    Target(
        name="l4",
        sm=89,
        driver_name=r"NVIDIA L4",
        sheet=DataSheet(
            memory_gib=24,
            bandwidth_gb_s=300,
            multiprocessors=58,
            clock_ghz=2.04,
            tflops={"fp32": 30.3, "fp16": 121, "bf16": 121, "fp8": 242, "int8": 242},
            source="NVIDIA L4 Tensor Core GPU data sheet: 242 (fp16) and 485 (fp8, int8) with sparsity, halved",
        ),
    ),
    Target(
        name="l40s",
        sm=89,
        driver_name=r"NVIDIA L40S",
        sheet=DataSheet(
            memory_gib=48,
            bandwidth_gb_s=864,
            multiprocessors=142,
            clock_ghz=2.52,
            tflops={"fp32": 91.6, "fp16": 362, "bf16": 362, "fp8": 733, "int8": 733},
            source="NVIDIA L40S GPU data sheet, dense figures",
        ),
    ),
    Target(
        name="rtx-4090",
        sm=89,
        driver_name=r"NVIDIA GeForce RTX 4090",
        sheet=DataSheet(
            memory_gib=24,
            bandwidth_gb_s=1008,
            multiprocessors=128,
            clock_ghz=2.52,
            tflops={"fp32": 82.6, "fp16": 165.2, "bf16": 165.2, "fp8": 330.3, "int8": 660.6},
            source="NVIDIA Ada GPU Architecture, appendix A, dense, fp32 accumulation",
        ),
    ),
    Target(
        name="h100",
        sm=90,
        driver_name=r"NVIDIA H100 80GB HBM3",
        sheet=DataSheet(
            memory_gib=80,
            bandwidth_gb_s=3350,
            multiprocessors=132,
            clock_ghz=1.83,
            tflops={"fp32": 67, "fp16": 989, "bf16": 989, "fp8": 1979, "int8": 1979},
            source="NVIDIA H100 Tensor Core GPU data sheet, SXM: sparse figures halved (PCIe: 2000 GB/s, slower)",
        ),
    ),
    Target(
        name="h200",
        sm=90,
        driver_name=r"NVIDIA H200",
        sheet=DataSheet(
            memory_gib=141,
            bandwidth_gb_s=4800,
            multiprocessors=132,
            clock_ghz=1.83,
            tflops={"fp32": 67, "fp16": 989, "bf16": 989, "fp8": 1979, "int8": 1979},
            source="NVIDIA H200 Tensor Core GPU data sheet, SXM: sparse figures halved",
        ),
    ),
    Target(
        name="gh200",
        sm=90,
        driver_name=r"NVIDIA GH200 (96GB HBM3|480GB)",
        sheet=DataSheet(
            memory_gib=96,
            bandwidth_gb_s=4000,
            multiprocessors=132,
            clock_ghz=1.83,
            tflops={"fp32": 67, "fp16": 989, "bf16": 989, "fp8": 1979, "int8": 1979},
            source="NVIDIA GH200 Grace Hopper Superchip data sheet, 96 GB HBM3: sparse figures halved (144 GB HBM3e: "
            "4900 GB/s); rates are those of the H100 SXM, from memory",
        ),
    ),
    Target(
        name="b200",
        sm=100,
        driver_name=r"NVIDIA B200",
        sheet=DataSheet(
            memory_gib=180,
            bandwidth_gb_s=8000,
            multiprocessors=148,
            clock_ghz=1.85,
            tflops={"fp32": 80, "fp16": 2250, "bf16": 2250, "fp8": 4500, "int8": 4500},
            source="NVIDIA Blackwell Architecture Technical Brief, HGX B200 at 1000 W, dense figures; memory as "
            "systems report it (the brief has 192 GB)",
        ),
    ),
    Target(
        name="rtx-5090",
        sm=120,
        driver_name=r"NVIDIA GeForce RTX 5090",
        sheet=DataSheet(
            memory_gib=32,
            bandwidth_gb_s=1792,
            multiprocessors=170,
            clock_ghz=2.41,
            tflops={"fp32": 104.8, "fp16": 209.5, "bf16": 209.5, "fp8": 419, "int8": 838},
            source="NVIDIA RTX Blackwell GPU Architecture, appendix A, dense, fp32 accumulation; tensor rates from "
            "memory",
        ),
    ),
    Target(
        name="dgx-spark",
        sm=121,
        driver_name=r"NVIDIA GB10",
        sheet=DataSheet(
            memory_gib=128,
            bandwidth_gb_s=273,
            multiprocessors=48,
            clock_ghz=2.42,
            tflops={"fp32": 31, "fp16": 125, "bf16": 125, "fp8": 250, "int8": 250},
            source="NVIDIA DGX Spark data sheet: 1 PFLOP sparse FP4, halved per step of precision and for sparsity, "
            "which no sheet confirms; less if fp32 accumulation is halved as on GeForce",
        ),
    ),
)
