# fmt: off
"""Words of chats, and parts of the names of functions. nano only learns to read and copy them."""

from __future__ import annotations

COMMON = """
able about above accept accident account actor add address adult advice afraid afternoon again age ago agree air
airport alarm album alcohol alive allow almost alone already also always amazing ambulance angry animal answer
apartment apple appointment april area argue arm army around arrive art article ask asleep aunt autumn available
average avoid award awake away awful baby back bacon bad bag bake bakery balance ball balloon banana band bank bar
basket bath bathroom beach bean bear beard beautiful because become bed bedroom beef beer before begin behind believe
bell belong below belt bench best better between bicycle big bike bill bird birth birthday biscuit bitter black
blanket blood blue board boat body boil bone book boot border bored boring born borrow boss bottle bottom bowl box boy
boyfriend brain brand brave bread break breakfast breathe bridge bright bring broken brother brown brush build
building bulb burn bus business busy butter button buy cable cake calendar call camera camp cancel candle candy
capital car card care careful carpet carrot carry case cash castle cat catch cause ceiling cell centre century chain
chair chance change charge charger cheap check cheese chef chemical cherry chess chicken child children chocolate
choir choose church cinema circle city class classroom clean clear clever climate climb clock close clothes cloud club
coach coast coat coffee coin cold colleague collect college colour comb come comfortable common company complete
computer concert contact contract cook cookie cool copy corn corner correct cost cotton cough could count country
couple course cousin cover cow cream create credit crime cross crowd cry cucumber cup cupboard curtain customer cut
dad daily damage dance danger dark date daughter day dead deaf dear death debt decide deep deer delay deliver delivery
dentist depend describe desert desk dessert detail develop diamond diary dictionary die diet difference different
difficult dinner dirty discover disease dish distance divide divorce doctor dog door double doubt down dragon draw
drawer dream dress drink drive driver drop dry duck during dust duty each ear early earn earth earthquake east easy
eat economy edge education egg eight either elect electric electricity elephant elevator email empty end enemy energy
engine engineer enjoy enough enter equal error escape evening event ever every exact exam example excellent except
exercise exist exit expect expensive experience explain eye face fact factory fail fair fall false family famous fan
far farm farmer fast fat father fault favourite fear feed feel female fence festival fever few field fight fill film
final find fine finger finish fire firm fish fit fix flag flat flight floor flour flower flu fly fold follow food foot
football force foreign forest forget fork form forward free freeze fresh fridge friend friendly frog front fruit full
fun funny furniture future game garage garden garlic gas gate gather gentle gift giraffe girl girlfriend give glad
glass glasses glove glue goal goat god gold gone good goose government grade grandfather grandma grandmother grandpa
grape grass grateful great green grey grill grocery ground group grow guess guest guide guitar gun guy gym habit hair
half hall hammer hand handle happen happy harbour hard hat hate have head headache health healthy hear heart heat
heater heavy helicopter hello help helpful here hero hide high hike hill history hit hobby hold hole holiday home
homework honest honey hope horse hospital hot hotel hour house how huge human hundred hungry hunt hurry hurt husband
ice idea ill illness important include increase inside insurance interest internet interview invite iron island jacket
jail jam jar jazz jealous jeans job join joke journey judge juice jump jungle just keep kettle key keyboard kick kid
kidney kill kilo kind king kiss kitchen kite kitten knee knife knock know knowledge ladder lady lake lamp land
landlord language laptop large last late laugh laundry law lawn lawyer lay lazy lead leader leaf leak learn leather
leave left leg lemon lend less lesson letter lettuce library licence lie life lift light like line lion lip list
listen little live liver loan local lock logo lonely long look lose lost lot loud love lovely low luck lucky luggage
lunch lung machine magazine magic mail main make male man manager many map market marriage married mask match maths
matter maybe meal mean measure meat medal medicine meet meeting melon melt member memory menu message metal microwave
middle midnight mild milk million mind minute mirror miss mistake mix mobile model modern moment money monkey month
moon more morning mother motor mountain mouse mouth move movie much mud muscle museum mushroom music musician must
nail name narrow national nature near neat neck need needle neighbour neither nephew nervous nest never new news
newspaper next nice niece night nine nobody noise noisy none normal north nose note nothing notice novel number nurse
nut oak object ocean offer office officer often oil okay old olive once onion only open opinion opposite orange
orchestra order other oven over owe own owner oxygen pack package page pain paint painting pair palace pan paper
parcel parent park parking part partner party pass passenger passport password past pasta path patient pay peace peach
peanut pear pen pencil people pepper percent perfect perfume perhaps person pet petrol phone photo piano pick picnic
picture pie piece pig pillow pilot pink pipe place plan plane planet plant plastic plate play player please plug
plumber pocket poem poet poison police polite pool poor popular pork possible post postcard potato pound powder power
practice prefer pregnant prepare present president press pretty price prime prince princess printer prison prize
probably problem professor project promise proof proud prove public pull pump pumpkin puppy purple purse push put
puzzle quality quarter queen question queue quick quiet quite quiz rabbit race radio rail rain raincoat raise rat
rather reach read ready real really reason receipt receive recipe record red refuse regret relax rely remember remind
remove rent repair repeat reply report rescue reserve rest restaurant result return rice rich ride right ring rise
river road roast rob robot rock roof room rope rose rough round rubber rubbish rude rug rule run sad safe sail salad
salary sale salmon salt same sand sandwich save say scarf school science scientist scissors score scream screen sea
search season seat second secret secretary sell send sentence serious serve seven several shade shadow shake shame
shape share shark sharp sheep sheet shelf shell shine ship shirt shock shoe shoot shop short shoulder shout show
shower shut sick side sign silence silly silver similar simple since sing singer single sink sister sit six size skate
ski skill skin skirt sky sleep sleepy slice slide slim slow small smart smell smile smoke smooth snack snake snow soap
soccer social sock sofa soft soldier solve some son song soon sore sorry sort soul sound soup sour south space speak
special speed spell spend spider spoon sport spring square stadium staff stairs stamp stand star start station statue
stay steak steal steel step stick still stomach stone stop store storm story stove straight strange strawberry stream
street stress strike strong student study subject subway success sudden sugar suggest suit suitcase summer sun sunset
supermarket supper surprise swallow sweater sweet swim swimming switch sword system table tablet tail take talk tall
tap tape taste tax taxi tea teach teacher team tear teeth television tell temple ten tennis tent test text thank
theatre theory there thick thief thin thing think thirsty this though thousand three throat through throw thumb
thunder ticket tidy tie tiger tight till time tiny tired title toast today toe together toilet tomato tomorrow tongue
tonight tool tooth toothbrush top total touch tour tourist towel tower town toy track tractor trade traffic train
trainer translate travel tree trip trouble trousers truck true trust truth try tube turkey turn twice twin two type
tyre ugly umbrella uncle under understand uniform unit university until upset use useful usual vacation valley value
van vegetable very video village violin virus visa visit visitor voice volcano vote wage wait waiter wake walk wall
wallet want war warm warn wash waste watch water wave way weak wear weather website wedding week weekend weigh weight
welcome well west wet whale wheat wheel where whether white whole why wide wife wifi wild win wind window wine wing
winner winter wire wise wish wolf woman wonder wonderful wood wool word work worker world worry worse worth wound wrap
wreck wrist write wrong yard year yellow yes yesterday yet yoga yogurt young zebra zero zoo summarise summarize
recommend inflation atom molecule gravity planet galaxy universe equation algebra geometry physics biology chemistry
philosophy psychology democracy revolution empire emperor pope minister parliament election mayor politics stock
bitcoin mortgage bonus profit budget vaccine cancer diabetes protein vitamin allergy dinosaur fossil climate pollution
recycle hurricane tornado tsunami eclipse asteroid satellite rocket astronaut telescope microscope laser battery
magnet engine turbine algorithm database server browser software hardware compiler keyboard printer router password
encryption blockchain neural network regression statistics probability theorem olympics champion tournament referee
goalkeeper marathon wrestling cricket actor actress director painter sculptor composer architect inventor explorer
philosopher
""".split()

PETS = """
Rex Bella Luna Rocky Coco Simba Milo Daisy Max Snowy Buddy Charlie Lola Molly Toby Oreo Ginger Tiger Lucky Felix
Whiskers Shadow Pepper Ruby Rosie Bruno Nala Oscar Duke Bear Honey Misty Smokey Ziggy Biscuit Cookie Pumpkin Fluffy
Spot Lady Zeus Apollo Loki Thor Mimi Kiki Nemo Bubbles Goldie Minnie Sunny Poppy Archie Bailey Jasper
""".split()

# Parts of the names of functions. ARGUMENTS below are names of arguments.
PARTS = """
get set my the quick simple easy basic new local world remote global user app api tool tools service server client
helper util utility plugin module lookup look up find fetch query ask check read show tell give make run do call use
start stop create add send post put push load open handle process request compute calc calculate evaluate eval solve
math sum number value result expression term formula weather forecast temperature climate sky conditions now today
current live data info information report status city place town location time clock hour zone date message text note
sms mail email chat contact person people name notify alert inform tell deliver write timer countdown alarm reminder
minutes kitchen egg cook watch stop wait sleep arith arithmetic plus engine machine box desk station center hub link
bot agent action task job main main2 v2 one two x a b
""".split()
ARGUMENTS = """
value item term arg argument data info details subject string param input field key x s str address user label phrase
content line object topic entry what which it request q query_text target_name user_input first second one two
message_text to_whom addressee friend where_to place_name city_or_town sentence words body_text count number num total
period span interval wait_minutes n_minutes time_in_minutes math_expression sum calc_input operation the_city the_text
the_name
""".split()
