package main

import "strings"

// terms are the Chinese words for what the rooms below name in English: modules of a checkpoint, meanings of hooks, ends
// of answers. A test holds them against everything that is shown.
var terms = map[string]string{
	"embedding": "词嵌入", "norms": "归一化", "attention": "注意力", "dense feed-forward": "稠密前馈", "router": "路由器", "experts": "专家",
	"shared expert": "共享专家", "output projection": "输出投影", "vision": "视觉",

	"token embedding":                               "词嵌入",
	"residual stream before the layer":              "该层之前的残差流",
	"normalised input of attention":                 "注意力的归一化输入",
	"queries before rotation, norm and temperature": "旋转、归一化和温度之前的查询",
	"keys before rotation and norm":                 "旋转和归一化之前的键",
	"values":                                        "值",
	"queries as they enter the scores (NoPE layers: temperature only)": "进入打分的查询（NoPE 层只有温度）",
	"keys as they are cached":                            "写入缓存的键",
	"weighted values of each head":                       "每个头加权后的值",
	"attention's addition to the residual":               "注意力加到残差上的部分",
	"residual stream between attention and feed-forward": "注意力与前馈之间的残差流",
	"normalised input of router and experts":             "路由器和专家的归一化输入",
	"router scores before the sigmoid":                   "sigmoid 之前的路由分数",
	"the chosen expert":                                  "选中的专家",
	"sigmoid of its score; scales the expert's input":    "其分数的 sigmoid，乘在专家的输入上",
	"scaled input of the chosen expert":                  "选中专家的加权输入",
	"output of the chosen expert":                        "选中专家的输出",
	"output of the shared expert":                        "共享专家的输出",
	"normalised input of the feed-forward":               "前馈的归一化输入",
	"the feed-forward's addition to the residual":        "前馈加到残差上的部分",
	"residual stream after the layer":                    "该层之后的残差流",
	"normalised input of the output projection":          "输出投影的归一化输入",
	"scores before the softmax":                          "softmax 之前的分数",

	"patches and class tokens with their positions, normalised":             "带位置的图像块与类别 token，已归一化",
	"weighted values of all heads":                                          "所有头加权后的值",
	"normalised patches, squares of them side by side: the adapter's input": "归一化的图像块，每个方格内的并排：适配器的输入",
	"output of the adapter":                                                 "适配器的输出",
	"what stands in place of token embeddings":                              "代替词嵌入的数值",

	"stop": "正常结束", "length": "达到长度上限", "cancelled": "已取消", "error": "出错",
}

// term gives a word of a room below in the language of the app.
func (a *app) term(english string) string {
	if zh, ok := terms[english]; ok && a.lang == "zh" {
		return zh
	}
	return english
}

// scales says what the scales of a quantised module cover: kernels.Coding.Geometry in the language of the app.
func (a *app) scales(geometry string) string {
	switch {
	case geometry == "":
		return "-"
	case a.lang != "zh":
		return geometry
	}
	return strings.NewReplacer(" scale for ", "，每 ", "all outputs", "全部输出", "all inputs", "全部输入", " x ", " × ", ", with zeros", "，带零点").Replace(geometry)
}
